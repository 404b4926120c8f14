"""Evaluate a run.

    python -m ccnet_jax.eval [--ms-flip] [--workdir DIR] [--split NAME] [--checkpoint last|best|DIR]
    python -m ccnet_jax.eval --window 769,769                  # slides by two thirds of the window
    python -m ccnet_jax.eval --split test --labels DIR         # for Cityscapes' test server

With no argument: the newest run (runs/latest) on the split it validates on, whole or with sliding windows as
its config says. Prints IoU and accuracy of each class, mIoU, mAcc and pixel accuracy, writes them as JSON,
and draws the first pictures. --labels writes every prediction in the data set's own numbers.
"""

import pathlib

import ml_collections
from absl import flags, logging

from ccnet_jax import checkpoint, errors, inference, metrics, sharding
from ccnet_jax import config as configuration
from ccnet_jax.data import pipeline
from ccnet_jax.errors import UserError
from ccnet_jax.json_files import write_json

_WORKDIR = flags.DEFINE_string("workdir", "runs/latest", "folder of the run")
_SPLIT = flags.DEFINE_string("split", None, "split of the data set; default the run's data.eval_split")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or the folder of a checkpoint")
_MS_FLIP = flags.DEFINE_bool("ms-flip", False, "average over several scales and mirror images")
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file; default WORKDIR/eval-SPLIT.json, with -best, -ms-flip, -firstN as asked"
)
_DATA_DIR = flags.DEFINE_string("data-dir", None, "the data's folder, where it is not the run's data.dir")
_WINDOW = flags.DEFINE_string(
    "window", None, "HEIGHT,WIDTH of sliding windows, or whole; default the config's"
)
_STRIDE = flags.DEFINE_string("stride", None, "DOWN,ACROSS between windows; default two thirds of the window")
_LABELS = flags.DEFINE_string("labels", None, "folder for all predictions, as label files of the data set")
_LIMIT = flags.DEFINE_integer("limit", None, "evaluate the first pictures only", lower_bound=1)


def main() -> None:
    """The program."""
    logging.set_verbosity(logging.ERROR)
    workdir = pathlib.Path(_WORKDIR.value)
    config = configuration.load(workdir)
    if _DATA_DIR.value is not None:
        config.data.dir = _DATA_DIR.value
    configuration.let_op_choose_if_needed(config)
    configuration.check(config)
    set_window(config)
    if _OUTPUT.value and pathlib.Path(_OUTPUT.value).is_dir():
        raise UserError(f"--output {_OUTPUT.value} is a folder; name a JSON file")
    if _LABELS.value and pathlib.Path(_LABELS.value).is_file():
        raise UserError(f"--labels {_LABELS.value} is a file; name a folder")
    split = _SPLIT.value or config.data.eval_split
    source = pipeline.open_source(config.data, split)

    model = configuration.build_model(config, len(source.classes))
    like = checkpoint.variables_like(model, sharding.data_mesh())
    variables, step = checkpoint.load_variables(workdir, _CHECKPOINT.value, like)

    testing = inference.Testing.of(config, _MS_FLIP.value)
    name = split
    if _CHECKPOINT.value != "last":
        name += f"-{pathlib.Path(_CHECKPOINT.value).name}"
    if _MS_FLIP.value:
        name += "-ms-flip"
    if _WINDOW.value:
        name += f"-{_WINDOW.value.replace(',', 'x')}"
    if _STRIDE.value:
        name += f"-by-{_STRIDE.value.replace(',', 'x')}"
    if _LIMIT.value:
        name += f"-first{_LIMIT.value}"
    print(f"{workdir.resolve()}, step {step}, split {split}, {testing}")
    predict = inference.predictor(model, testing)
    labels = pathlib.Path(_LABELS.value) if _LABELS.value else None
    result = inference.evaluate(
        predict, variables, source, config.eval_batch_size, workdir / "pictures" / name, _LIMIT.value, labels
    )
    if labels is not None:
        print(f"{result['pictures']} predictions in {labels}")
    if not any(map(any, result["confusion"])):
        if labels is not None:
            return  # what a test split is evaluated for
        raise UserError(
            f"split {split} of {config.data.name} has no labels to score; choose another with --split (what "
            f"the network predicts for its first pictures is in {workdir / 'pictures' / name})"
        )

    print(metrics.table(result, source.classes))
    print(f"{result['pictures']} pictures, {result['images_per_second']:.1f} images/s with compilation")
    output = pathlib.Path(_OUTPUT.value or workdir / f"eval-{name}.json")
    report = {"split": split, "mode": str(testing), "step": step, "checkpoint": _CHECKPOINT.value, **result}
    report |= {"classes": list(source.classes)}
    with errors.writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, metrics.without_nan(report))
    print(f"scores in {output}, pictures in {workdir / 'pictures' / name}")


def set_window(config: ml_collections.ConfigDict) -> None:
    """Set the config's `eval_window` and `eval_stride` to what the command line says, if it does."""
    if _WINDOW.value is None:
        if _STRIDE.value is not None:
            raise UserError("--stride goes with --window; pass both")
        return
    window = stride = None
    if _WINDOW.value != "whole":
        window = errors.whole_numbers("--window", _WINDOW.value, "HEIGHT,WIDTH")
        stride = tuple(-(-2 * side // 3) for side in window)
        if _STRIDE.value is not None:
            stride = errors.whole_numbers("--stride", _STRIDE.value, "DOWN,ACROSS")
    with config.ignore_type():
        config.eval_window, config.eval_stride = window, stride
    configuration.check(config)


if __name__ == "__main__":
    errors.run(main)
