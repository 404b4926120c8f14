"""Evaluate a run.

    python -m ccnet_jax.eval [RUN] [--ms-flip] [--split NAME] [--checkpoint last|best|DIR]
    python -m ccnet_jax.eval --window 769,769                  # slides by two thirds of the window
    python -m ccnet_jax.eval --split test --labels DIR         # for Cityscapes' test server

With no argument: the newest run (runs/latest) on the split it validates on, on whole images or in sliding
windows as its config says. Prints IoU and accuracy of each class, mIoU, mAcc and pixel accuracy, or of
instances COCO's AP of boxes and masks, writes them as JSON, and draws the first images. --labels writes
every prediction in the data set's own numbers, of instances as detections.json.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from ccnet_jax.common import compilation_cache, devices, outputs
from ccnet_jax.common.errors import UserError, write_json
from ccnet_jax.common.words import number_of
from ccnet_jax.config import command_line, records
from ccnet_jax.config import config as configuration
from ccnet_jax.config.config import Config
from ccnet_jax.data import pipeline
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.sources import files_of
from ccnet_jax.engine.checkpoints import load_variables, variables_like
from ccnet_jax.engine.folder import LATEST, RunFolder
from ccnet_jax.evaluation.metrics import without_nan
from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.tasks import TASKS, run_data


def test_mode(arguments: argparse.Namespace, config: Config) -> TestMode:
    """How the command line asks to test: as the config says, where it says nothing else."""
    if not TASKS[config.task].labels_pixels and (arguments.ms_flip or arguments.window or arguments.stride):
        raise UserError(
            f"a network of config.task={config.task!r} is tested on whole images at one scale: omit "
            "--ms-flip, --window and --stride"
        )
    mode = config.test_mode(arguments.ms_flip)
    if arguments.window is None:
        if arguments.stride is not None:
            raise UserError("--stride goes with --window; pass both")
        return mode
    if arguments.window == "whole":
        if arguments.stride is not None:
            raise UserError("--stride goes with a --window of HEIGHT,WIDTH, not with whole; omit it")
        return dataclasses.replace(mode, window=None, stride=None)
    window = command_line.pair("--window", arguments.window, "HEIGHT,WIDTH")
    stride = -(-2 * window[0] // 3), -(-2 * window[1] // 3)
    if arguments.stride is not None:
        stride = command_line.pair("--stride", arguments.stride, "DOWN,ACROSS")
    # the config's own rules hold for them too
    changed = dataclasses.replace(config, eval_window=window, eval_stride=stride)
    return configuration.check(changed).test_mode(arguments.ms_flip)


def name_of(arguments: argparse.Namespace, split: str) -> str:
    """What the results are called: the split, and how this evaluation differs from the plain one."""
    name = split
    if arguments.checkpoint != "last":
        path = pathlib.Path(arguments.checkpoint)  # the same step may be in last/ and in best/
        name += "-" + "-".join(path.relative_to(path.anchor).parts[-2:])
    if arguments.ms_flip:
        name += "-ms-flip"
    if arguments.window:
        name += f"-{arguments.window.replace(',', 'x')}"
    if arguments.stride:
        name += f"-by-{arguments.stride.replace(',', 'x')}"
    if arguments.limit:
        name += f"-first{arguments.limit}"
    return name


def open_images(config: Config, run: RunFolder, split: str, data_dir: str | None, unlabelled: bool) -> Any:
    """The images of the split, whose labels may be missing where `unlabelled`; see `run_data.opened`.

    Raises UserError in the words of this program's flags.
    """
    name = config.data.name
    if data_dir is not None and config.data.source == "folder" and DATASETS[name].layout is None:
        raise UserError(f"--data-dir={data_dir}: the images of {name} lie in no folder; omit it")
    try:
        return run_data.open_images(config, split, records.load_classes(run), run, unlabelled)
    except UserError as error:
        raise UserError(str(error).replace("--config.data.dir", "--data-dir")) from None


def check_places(
    run: RunFolder,
    output: pathlib.Path | None,
    labels: pathlib.Path | None,
    name: str,
    data: list[pathlib.Path],
) -> None:
    """Raise UserError where results would harm the data or the run, or cannot be written.

    Args:
      run: the folder of the run.
      output: of --output.
      labels: of --labels.
      name: of this evaluation.
      data: the files of the data set.
    """
    kept = [*data, *run.own_files]
    if output is not None:
        outputs.check_file("--output", output, kept)
    if labels is not None:
        outputs.check_folder("--labels", labels, outputs.results_in(labels, (".png", ".json")), kept)
    run.check_results([run.scores_file(name)], data)


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    compilation_cache.turn_on()
    command_line.run_parts(arguments)
    run = command_line.run_of(arguments)
    config = records.load_config(run)
    if arguments.data_dir is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=arguments.data_dir))
    mode = test_mode(arguments, config)
    output = None if arguments.output is None else pathlib.Path(arguments.output).expanduser()
    labels = None if arguments.labels is None else pathlib.Path(arguments.labels).expanduser()
    split = arguments.split or config.data.eval_split
    task = TASKS[config.task]
    source = open_images(config, run, split, arguments.data_dir, unlabelled=labels is not None)
    name = name_of(arguments, split)
    images = run.images(name)
    asked = output is not None or labels is not None  # to write outside the run
    data = pipeline.files_of_all_splits(config.data, source) if asked else files_of(source)
    check_places(run, output, labels, name, data)

    network = task.network(config, len(source.classes))
    variables, step = load_variables(run, arguments.checkpoint, variables_like(network, devices.data_mesh()))
    print(f"{run.path.resolve() if run.remote is None else run}, step {step}, split {split}, {mode}")
    test = task.tester(config, network, mode)
    result = test(variables, source, drawings=images, limit=arguments.limit, labels=labels)
    run.push()
    if labels is not None:
        print(f"{result['images']} predictions in {labels}")
    if not task.scores(result):
        if labels is not None:
            return  # what a test split is evaluated for
        raise UserError(
            f"split {split} of {config.data.name} has no labels to score; choose another with --split (what "
            f"the network predicts for its first images is in {images})"
        )

    output = output or run.scores_file(name)
    report = {"split": split, "mode": str(mode), "step": step, "checkpoint": arguments.checkpoint, **result}
    report |= {"classes": list(source.classes)}
    write_json(output, without_nan(report))  # before it is printed: the reader of a pipe may be gone
    run.push()
    print(task.table(result, source.classes))
    rate = f"{result['images_per_second']:.1f} images/s with compilation"
    print(f"{number_of(result['images'], 'image')}, {rate}")
    print(f"scores in {output}, images in {images}")


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.eval", __doc__)
    parser.add_run(f"folder of the run, default {LATEST}")
    parser.add_argument("--split", help="split of the data set; default the run's data.eval_split")
    parser.add_argument("--checkpoint", default="last", help="last, best, or the folder of a checkpoint")
    parser.add_argument(
        "--ms-flip", action="store_true", help="average over several scales and mirror images"
    )
    parser.add_argument(
        "--output",
        help="JSON file; default eval-SPLIT.json in the run, with -best, -ms-flip, -firstN as asked",
    )
    parser.add_argument("--data-dir", help="folder of the data, where it is not the run's data.dir")
    parser.add_argument(
        "--window", help="HEIGHT,WIDTH of sliding windows, or whole; default as the config says"
    )
    parser.add_argument("--stride", help="DOWN,ACROSS between windows; default two thirds of the window")
    parser.add_argument("--labels", help="folder for all predictions, as label files or detections.json")
    parser.add_argument("--limit", type=command_line.positive, help="evaluate the first images only")
    return parser


if __name__ == "__main__":
    command_line.run(main)
