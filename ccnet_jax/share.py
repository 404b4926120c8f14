"""Make a folder to share of a trained network, or put it on the Hugging Face hub.

    python -m ccnet_jax.share RUN --to DIR
    python -m ccnet_jax.share RUN --to hf:ORG/NAME [--private] [--no-example]

The folder holds the weights (model.safetensors), the config, the classes, a model card written from the run's
own records (README.md) and an example of what the network predicts, with an image of the data set: see that
its licence allows that. `ccnet_jax.load`, `eval`, `predict` and `--config.pretrained` take the folder and the
name. The card's licence is "unknown": write yours.
"""

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

from ccnet_jax.common import outputs
from ccnet_jax.common.errors import UserError, write_whole
from ccnet_jax.config import command_line, records
from ccnet_jax.config import config as configuration
from ccnet_jax.engine import hub, weights_file
from ccnet_jax.engine.checkpoints import load_arrays, step_folder
from ccnet_jax.engine.folder import LATEST, RunFolder
from ccnet_jax.weights import model_card


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    command_line.run_parts(arguments)
    if not arguments.to:
        raise UserError("pass --to DIR, or --to hf:ORG/NAME to upload")
    run = command_line.run_of(arguments)
    if not hub.is_name(arguments.to):
        if arguments.private:
            raise UserError("--private goes with --to hf:ORG/NAME; omit it")
        folder = pathlib.Path(arguments.to).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"--to {folder} exists and is not empty; choose a new folder")
        outputs.check_folder("--to", folder, ())
        make(run, arguments.checkpoint, folder, folder.resolve().name, arguments.example)
        print(f"{folder} is complete; in Python: ccnet_jax.load({str(folder)!r})")
        return
    repository, revision = hub.parts_of(arguments.to)
    if revision is not None:
        raise UserError(f"--to {arguments.to}: a revision is made by the upload; omit @{revision}")
    hub.library(arguments.to)  # before the work
    with tempfile.TemporaryDirectory(prefix="ccnet_jax-") as made:
        make(run, arguments.checkpoint, pathlib.Path(made), arguments.to, arguments.example)
        address = hub.upload(pathlib.Path(made), repository, arguments.private)
    print(f"uploaded to {address}; in Python: ccnet_jax.load({arguments.to!r})")


def make(run: RunFolder, checkpoint: str, folder: pathlib.Path, title: str, with_example: bool) -> None:
    """Write a network into a folder.

    Args:
      run: the folder of the run.
      checkpoint: "last", "best", or the folder of one checkpoint.
      folder: to write into.
      title: the network's name on its card.
      with_example: whether an example is added, if the run has one.

    Raises:
      UserError: there is no such run or checkpoint, the folder cannot be written, or a link in the run leads
        out of it: what it leads to would be shared.
    """
    outputs.check_links("--workdir", run.path, run.path, [run.wandb_folder])
    config, classes = records.load_config(run), records.load_classes(run)
    source = step_folder(run, checkpoint)
    if source is None:
        raise UserError(f"{run} holds no checkpoint {checkpoint}; choose another (last, best, or a folder)")
    if source == run.path:  # a network that was shared
        variables, step = weights_file.read(run.weights_file)
    else:
        variables, step = load_arrays(source), int(source.name) if source.name.isdecimal() else None
    example = next(iter(sorted(run.all_images.glob("*/*.png"))), None) if with_example else None
    if with_example and example is None:
        print(f"{run} has no images, so there is no example: python -m ccnet_jax.eval makes some")
    shared = RunFolder(folder)
    records.save_config(shared, dataclasses.replace(configuration.without_place(config), pretrained=None))
    records.save_classes(shared, classes)
    if example is not None:
        shutil.copyfile(example, folder / model_card.EXAMPLE)
    card = model_card.text(run, config, classes.names, title, step, example is not None)
    write_whole(folder / "README.md", card)
    if run.versions_file.is_file():  # the card of one who shares this network again is written from it, too
        shutil.copyfile(run.versions_file, shared.versions_file)
    weights_file.write(shared.weights_file, variables, step)  # last: without it the folder is no network


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.share", __doc__)
    parser.add_run(f"folder of the run, default {LATEST}")
    parser.add_argument("--to", metavar="DIR|hf:ORG/NAME", help="a new folder, or a repository on the hub")
    parser.add_argument("--checkpoint", default="last", help="last, best, or the folder of a checkpoint")
    parser.add_argument(
        "--no-example", dest="example", action="store_false", help="leave out the image of the data set"
    )
    parser.add_argument("--private", action="store_true", help="make the repository, if new, a private one")
    return parser


if __name__ == "__main__":
    command_line.run(main)
