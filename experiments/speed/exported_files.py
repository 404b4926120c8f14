"""Files of a case's network, as `ccnet_jax.export` writes them: StableHLO and ONNX.

    python -m experiments.speed.exported_files FOLDER '{"task": "inference", "depth": 50, ...}'

Runs on the CPU, after `experiments.speed.weights`. The files take images of the case's shape alone.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

from ccnet_jax.models.config import build_network
from ccnet_jax.tools.exporting import FORMATS
from ccnet_jax.tools.exporting.program import ImageShape, semantic_program
from experiments.speed import cases
from experiments.speed.cases import Case
from experiments.speed.weights import load_variables, model_config

NAMES = ("stablehlo", "onnx")  # of FORMATS


def exported_file(case: Case, folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the file of a format lies."""
    return folder / f"{case.weights_name}-{case.batch}x{case.height}x{case.width}.{name}"


def main(arguments: Sequence[str]) -> None:
    """Write the files."""
    folder, case = pathlib.Path(arguments[0]), Case(**json.loads(arguments[1]))
    network = build_network(model_config(case), cases.CLASSES, case.dtype)
    variables = load_variables(case.weights_file(folder, "jax"))
    shape = ImageShape(case.batch, case.height, case.width)
    program = semantic_program(network, variables, shape, probabilities=False)
    for name in NAMES:
        FORMATS[name].write(program, exported_file(case, folder, name))


if __name__ == "__main__":
    main(sys.argv[1:])
