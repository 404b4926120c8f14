"""Train the small network of the config `demo` on the built-in scenes, and score it: minutes on a CPU.

    python -m ccnet_jax.demo [--workdir runs/demo]

Started again, it goes on where it was stopped.
"""

from collections.abc import Sequence

from ccnet_jax import eval, train
from ccnet_jax.config import command_line
from ccnet_jax.engine.folder import RunFolder


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.demo", __doc__)
    parser.add_argument("--workdir", default="runs/demo", help="folder of the run, default %(default)s")
    return parser


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    workdir = flags().parse(command).workdir
    train.main(["--config", "demo", "--workdir", workdir])
    eval.main(["--workdir", workdir])
    images = RunFolder.at(workdir, fetch=False).images("val")
    print(f"Look at the images in {images}: input, truth and prediction side by side.")


if __name__ == "__main__":
    command_line.run(main)
