"""A trained network as one file that a server runs without this package: images in, classes out.

    python -m ccnet_jax.export RUN --to stablehlo|onnx|saved_model [--size H,W|any] [--batch N|any]
    python -m ccnet_jax.export runs/demo --to onnx --size 512,1024 --batch 1 --probabilities

The file takes "images", uint8 RGB [B, H, W, 3], and gives "classes", uint8 [B, H, W]. --probabilities adds
"probabilities", float32 [B, H, W, classes]. Weights, normalisation and upsampling are inside. It labels whole
images in one pass, also where the run is tested in windows or at several scales.

    stablehlo    for JAX alone, on CPUs and NVIDIA's GPUs; the results are the jitted model's in every bit
    onnx         opset 18, for onnxruntime and others; logits are within 1e-4 of the largest
    saved_model  for TensorFlow and its servers; needs TensorFlow, and is a folder

Before a file gets its name it is run beside the model, in three odd sizes where --size is any. A file that
disagrees is not kept.

A network that finds instances is written as stablehlo only, for a canvas of its config.

docs/export.md says how a server loads each of them.
"""

import argparse
import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import psutil

from ccnet_jax.common import compilation_cache, outputs
from ccnet_jax.common.errors import UserError, explain_write_errors
from ccnet_jax.common.kernels import whole_file
from ccnet_jax.common.log import say
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line, records
from ccnet_jax.config.config import Config
from ccnet_jax.data.sizes import LARGEST, SMALLEST
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.evaluation.test_mode import WHOLE
from ccnet_jax.tasks import TASKS
from ccnet_jax.tools.exporting import FORMATS, Format
from ccnet_jax.tools.exporting.program import ImageShape, Program, semantic_program, sized_program
from ccnet_jax.weights.inference import load
from ccnet_jax.weights.new_folder import new_folder
from ccnet_jax.weights.values import check_numbers

ANY = "any"


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    compilation_cache.turn_on()
    command_line.run_parts(arguments)
    run, form = command_line.run_of(arguments), FORMATS[arguments.to]
    config = records.load_config(run)
    check_form(arguments.to, form, config, arguments.probabilities)
    shape = ImageShape(**TASKS[config.task].export_shape(config, sizes_asked(arguments)))
    dtype = chosen_dtype(arguments, form, config)
    out = pathlib.Path(
        arguments.out or f"{run.path.resolve().name}{form.suffix or '-saved_model'}"
    ).expanduser()
    check_out(out, form, run)
    with on_the_cpu():
        model = load(run.path, arguments.checkpoint)
        check_memory(shape, len(model.classes))
        program = program_of(config, model, dtype, shape, arguments.probabilities)
        export(program, form, out)
    print(f"{out}: {size_of(out) / 1e6:.1f} MB, images {shape} (batch x height x width), {dtype}")
    if TASKS[config.task].labels_pixels and model.mode != WHOLE:
        print(f"the file labels whole images in one pass; this run is tested otherwise ({model.mode})")


# ------------------------------------------------------------------------------------------ what is asked for
def check_form(name: str, form: Format, config: Config, probabilities: bool) -> None:
    """Raise UserError where the format does not take such a network, or lacks a package."""
    task = TASKS[config.task]
    if not (task.labels_pixels or form.any_task):
        others = ", ".join(other for other, x in FORMATS.items() if x.any_task)
        raise UserError(
            f"--to {name} does not take a network with config.task={config.task!r}; choose --to {others}"
        )
    if probabilities and not task.labels_pixels:
        raise UserError(f"--probabilities are those of pixels, and this network {task.does}; omit it")
    if missing := form.missing_packages():
        raise UserError(
            f"--to {name} needs {' and '.join(missing)}, not installed here: pip install {form.install}"
        )


def sizes_asked(arguments: argparse.Namespace) -> dict[str, int | None]:
    """ "height" and "width", and "batch", as far as flags say them; None is any. Raises UserError."""
    asked: dict[str, int | None] = {}
    if arguments.size:
        asked["height"], asked["width"] = size_flag(arguments.size) or (None, None)
    if arguments.batch:
        asked["batch"] = batch_flag(arguments.batch)
    return asked


def size_flag(text: str) -> tuple[int, int] | None:
    """(height, width) of --size, None for any. Raises UserError."""
    if text == ANY:
        return None
    try:
        height, width = command_line.pair("--size", text, "H,W")
    except UserError:
        raise UserError(f"--size={text} must be H,W in pixels, or any") from None
    for side in (height, width):
        if not SMALLEST <= side <= LARGEST:
            raise UserError(f"--size={text}: each side must have {SMALLEST} to {LARGEST} pixels")
    return height, width


def batch_flag(text: str) -> int | None:
    """Images of --batch, None for any. Raises UserError."""
    if text == ANY:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch={text} must be a whole number of at least 1, or any")
    return int(text)


def chosen_dtype(arguments: argparse.Namespace, form: Format, config: Config) -> str:
    """Of the computation: what --dtype says, or the run's, if the format has it. Raises UserError."""
    if arguments.dtype is not None and arguments.dtype not in form.dtypes:
        raise UserError(
            f"--dtype {arguments.dtype} is not written with --to {arguments.to}; it computes in "
            f"{' or '.join(form.dtypes)}"
        )
    return arguments.dtype or (config.dtype if config.dtype in form.dtypes else form.dtypes[0])


def check_out(out: pathlib.Path, form: Format, run: RunFolder) -> None:
    """Raise UserError where the file must not or cannot be written."""
    if not form.suffix:
        outputs.check_folder("--out", out, [])
        if out.exists() and any(out.iterdir()):
            raise UserError(f"--out {out} exists and is not empty; choose a new folder")
        return
    inside = [path for path in run.path.rglob("*") if path.is_file() and path.suffix != form.suffix]
    outputs.check_file("--out", out, [*run.own_files, *inside], (form.suffix,))


def check_memory(shape: ImageShape, classes: int) -> None:
    """Raise UserError where the logits of such images would not fit into this machine's memory."""
    batch, height, width = max(shape.examples())
    needed = 12 * batch * height * width * classes  # the logits, and two like them
    available = psutil.virtual_memory().total
    if needed > available:
        raise UserError(
            f"images {shape} have {needed / 1e9:.0f} GB of logits, with which the file is to be tried, and "
            f"this machine has {available / 1e9:.0f} GB; choose smaller ones with --size or --batch"
        )


# -------------------------------------------------------------------------------------------------- the work
@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """Inside, JAX computes on a CPU: a program that is traced for one runs on GPUs, too.

    For a GPU the network would take other ways to the same results, which do not take images of any size.
    """
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:
        raise UserError("JAX has no CPU here, which writes the file; unset JAX_PLATFORMS") from None
    with jax.default_device(cpu):
        yield


def program_of(config: Config, model: Any, dtype: str, shape: ImageShape, probabilities: bool) -> Program:
    """What the file is to compute. Raises UserError where the weights are corrupt."""
    variables = jax.device_get(model.variables)
    for path, value in jax.tree_util.tree_leaves_with_path(variables):
        check_numbers(value, jax.tree_util.keystr(path, simple=True, separator="/"), "the run's checkpoint")
    task, network = TASKS[config.task], model.network.clone(dtype=jax.numpy.dtype(dtype))
    if task.labels_pixels:
        return semantic_program(network, variables, shape, probabilities)
    forward = task.forward(config, network.clone(implementation="xla", remat="none"))
    return sized_program(forward, variables, shape)


def export(program: Program, form: Format, out: pathlib.Path) -> None:
    """Write the file, run it beside the model, and give it its name. Raises UserError."""
    if form.suffix:
        with explain_write_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    place = whole_file(out) if form.suffix else new_folder(out)
    steps = 1 + len(program.shape.examples())
    with (
        progress_bar(total=steps, unit="step", desc="exporting", leave=False) as bar,
        explain_write_errors(out),
        place as path,
    ):
        bar.set_postfix_str("writing")
        try:
            form.write(program, path)
        except UserError:
            raise
        except Exception as error:
            raise not_written(program.shape, error) from error
        bar.update()
        bar.set_postfix_str("comparing")
        for line in form.compare(program, path):
            say(line)
            bar.update()


def not_written(shape: ImageShape, error: Exception) -> Exception:
    """The error of a network that cannot be traced; a UserError where it must know its images' size."""
    kinds = (jax.errors.JAXTypeError, jax.errors.InconclusiveDimensionOperation)
    if not (shape.is_any and isinstance(error, kinds)):
        return error
    return UserError(
        "this network must know the size of its images, as model.context=psp does; pass --size H,W and "
        f"--batch N (JAX says: {str(error).strip().splitlines()[0]})"
    )


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# -------------------------------------------------------------------------------------------------- the flags
def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.export", __doc__)
    parser.add_run("folder of the run, or of a converted checkpoint; default: the newest run")
    parser.add_argument("--to", required=True, choices=list(FORMATS), help="format of the file")
    parser.add_argument("--size", metavar="H,W|any", help="of the images; default any")
    parser.add_argument("--batch", metavar="N|any", help="images of a call; default any")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="of the computation; default the run's, or float32"
    )
    parser.add_argument("--out", metavar="FILE", help="file to write, or folder; default the run's name")
    parser.add_argument("--probabilities", action="store_true", help="give the classes' probabilities, too")
    parser.add_argument("--checkpoint", default="last", help="last, best, or the folder of a checkpoint")
    return parser


if __name__ == "__main__":
    command_line.run(main)
