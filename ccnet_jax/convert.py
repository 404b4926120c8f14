"""PyTorch's weights into a run's folder, and back.

    python -m ccnet_jax.convert CHECKPOINT --out DIR [--source NAME] [--config NAME[:VARIANT]]
    python -m ccnet_jax.convert maskrcnn_resnet50_fpn.pth --out DIR    # torchvision's or mmdetection's
    python -m ccnet_jax.convert RUN --to torch --out FILE.{safetensors,pth} [--checkpoint last|best|DIR]

The first command makes a run at step 0 of a CCNet's weights, the authors' (official) or mmsegmentation's
(mmseg): `eval` takes it as any other run, and `train --resume DIR` trains on. Of a ResNet's weights alone
(timm's and torchvision's too) it makes a folder for --config.pretrained=DIR.

A .safetensors file needs no PyTorch. Of a .pth file only tensors are read, and no code in it is run. Depth,
width, flavour, stem and number of classes are found in the weights. The data set is found by the class names
that mmsegmentation keeps, or else by the number of classes; loops and align_corners by the config that
mmsegmentation keeps. A recipe given with --config says the rest, and must agree with the weights. Without
--config the weights get the recipe of their flavour, which --config.KEY=VALUE changes.

The second command writes a run's weights under the names of its flavour's PyTorch network.

Neither command changes a bit of the weights, with one exception. Norms of the authors' network are in-place
ABN, whose scale is |weight| + 1e-5. Official weights without num_batches_tracked, which only PyTorch's own
batch norm has, are taken for in-place ABN's, and their scales become |weight| + 1e-5. `--to torch
--inplace-abn` writes such weights; without it the written weights are the scales.

docs/weights.md says more.
"""

import argparse
import pathlib
from collections.abc import Sequence

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import command_line, config_files
from ccnet_jax.config.config import Config, parse
from ccnet_jax.config.config_files import ConfigName
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.weights.naming import STEM_NAMES
from ccnet_jax.weights.torch_export import export_weights
from ccnet_jax.weights.torch_import import import_weights


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    command_line.run_parts(arguments)
    given, out = (pathlib.Path(path).expanduser() for path in (arguments.given, arguments.out))
    if arguments.to is None:
        config = recipe(arguments)
        overrides = arguments.overrides if config is None else {}
        import_weights(given, out, arguments.source, arguments.inplace_abn, config, overrides)
        return
    if arguments.source or arguments.config or arguments.overrides:
        raise UserError("--source and --config are for reading PyTorch's weights; with --to torch omit them")
    export_weights(RunFolder.at(given), out, arguments.checkpoint, bool(arguments.inplace_abn))


def recipe(arguments: argparse.Namespace) -> Config | None:
    """The config that the command line names, with its changes; None where it names none."""
    if arguments.config is None:
        return None
    return parse(config_files.load(ConfigName.of(arguments.config)), arguments.overrides)


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.convert", __doc__)
    parser.add_argument(
        "given", metavar="CHECKPOINT|RUN", help="file to read, or with --to torch a run's folder"
    )
    parser.add_argument(
        "--out",
        required=True,
        help="folder to make; with --to torch a .safetensors, .pth or .pt file",
    )
    parser.add_argument(
        "--source", choices=STEM_NAMES, help="whose names the weights have; default: as the weights tell"
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        help=f"recipe of the run: {', '.join(config_files.names())} or a file, with :VARIANT where it has "
        "some; --config.KEY=VALUE changes a key, also without --config",
    )
    parser.add_argument("--to", choices=["torch"], help="write a run's weights as PyTorch's")
    parser.add_argument(
        "--checkpoint", default="last", help="of the RUN: last, best, or the folder of a checkpoint"
    )
    parser.add_argument(
        "--inplace-abn",
        action=argparse.BooleanOptionalAction,
        help="whether the norms of official weights are the authors' in-place ABN (scale |weight| + 1e-5); "
        "default: reading, as the weights tell; writing, no",
    )
    parser.add_parts()
    return parser


if __name__ == "__main__":
    command_line.run(main)
