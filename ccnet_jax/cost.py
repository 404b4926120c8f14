"""What a config costs on a GPU: parameters, operations, device memory and the time they bound; no GPU needed.

    python -m ccnet_jax.cost --config NAME[:VARIANT] [--batch N] [--gpu NAME] [--inference HxW]
    python -m ccnet_jax.cost --config cityscapes:mmseg-r50-769x769-80k --batch 2 --gpu rtx4090

Operations are counted from the program that JAX traces, device memory is what XLA plans when it compiles
for the GPU, which takes a minute or more. Nothing runs: times are bounds and no measurements. Compiling needs
Linux and the packages of `pip install '.[cost]'` in a clone; without them the rest is reported.
"""

import contextlib
import importlib.util
import json
import pathlib
from collections.abc import Iterator, Sequence

from ccnet_jax.common import outputs
from ccnet_jax.common.errors import UserError, explain_write_errors
from ccnet_jax.common.fields import MOST_IMAGES
from ccnet_jax.common.kernels import GPUS
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line
from ccnet_jax.tools.costs import report, sizes


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    config = command_line.config_of(arguments)
    name = arguments.config or arguments.named
    image = sizes.image_size(config)
    if arguments.inference is not None:
        image = sizes.size_of(arguments.inference)
    if arguments.plot is not None and not importlib.util.find_spec("matplotlib"):
        raise UserError("--plot needs matplotlib, which is not installed: pip install matplotlib")
    if arguments.plot is not None:
        outputs.check_file("--plot", pathlib.Path(arguments.plot), suffixes=tuple(report.CHARTS))
    with progress_bar(unit="program", desc="compiling", leave=False) as bar:

        @contextlib.contextmanager
        def compiling(what: str) -> Iterator[None]:
            bar.set_postfix_str(what)
            yield
            bar.update()

        batch_size = arguments.batch or config.batch_size
        costs = report.costs(config, batch_size, image, arguments.gpu, compiling)
    if arguments.plot is not None:
        with explain_write_errors(arguments.plot):
            report.plot(costs, name, pathlib.Path(arguments.plot))
    print(json.dumps({"config": name} | costs, indent=2) if arguments.json else report.as_text(costs, name))


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.cost", __doc__)
    parser.add_config()
    parser.add_argument(
        "--batch",
        type=command_line.whole(1, MOST_IMAGES),
        metavar="N",
        help="images of a step on one GPU; default config.batch_size, as if there were only one",
    )
    parser.add_argument("--gpu", choices=list(GPUS), default="h200", help="default %(default)s")
    parser.add_argument(
        "--inference", metavar="HxW", help="an image to test; default that of the data set, or a crop"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: bytes, seconds and operations")
    parser.add_argument(
        "--plot", metavar="FILE", help="also draw a bar chart, PNG, PDF or SVG; needs matplotlib"
    )
    return parser


if __name__ == "__main__":
    command_line.run(main)
