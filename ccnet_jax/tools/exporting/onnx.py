"""ONNX: one file that onnxruntime and other runtimes load, in float32.

Written from the traced program by rules of our own (`onnx_graph`). The converters that there are do not
fit: jax2onnx 0.17 wants an Orbax older than the one that checkpoints are written with, and fails on Flax's
max pooling with a padding; tf2onnx (not tried) would need TensorFlow too.

No converter is trusted, ours included: `compare` runs the file, and what differs is not kept.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ccnet_jax.common.errors import UserError, first_line
from ccnet_jax.tools.exporting.formats import Disagrees, Format
from ccnet_jax.tools.exporting.program import Program

TOLERANCE = 1e-4  # of logits, in fractions of the largest
LOGITS = "logits"


def write(program: Program, path: pathlib.Path) -> None:
    """Write the file. Raises UserError where the network has an operation that cannot be written."""
    import onnx

    from ccnet_jax.tools.exporting.onnx_graph import Unknown, onnx_model

    assert program.logits is not None, "instance networks have another format"
    assert program.outputs is not None
    logits_of, outputs_of = program.logits, program.outputs

    def call(images: jax.Array) -> Mapping[str, jax.Array]:
        logits = logits_of(images)
        return outputs_of(logits) | {LOGITS: logits}

    try:
        model = onnx_model(call, program.inputs())
    except Unknown as error:
        raise UserError(
            f"the network has an operation that is not written in ONNX ({error}); export it with "
            "--to stablehlo"
        ) from None
    (logits,) = (x for x in model.graph.output if x.name == LOGITS)
    model.graph.output.remove(logits)
    model.graph.value_info.append(logits)  # `compare` asks for them
    onnx.save(model, path)


def compare(program: Program, path: pathlib.Path) -> Iterator[str]:
    """Check the file, and run it in onnxruntime. Raises Disagrees where its results are not the network's."""
    import onnx

    assert program.logits is not None
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Disagrees(f"onnx.checker refuses the file ({first_line(error)}); it is not kept") from None
    session = _session(path)
    names = [x.name for x in session.get_outputs()]
    for (images,) in program.examples():
        try:
            found = dict(zip(names, session.run(names, {"images": images}), strict=True))
        except Exception as error:  # onnxruntime has a class of its own for each kind of fault
            raise Disagrees(
                f"onnxruntime cannot run the file on images {list(images.shape)} ({first_line(error)}); it "
                "is not kept"
            ) from None
        wanted = np.asarray(jax.jit(program.logits)(images))
        difference = relative_difference(found[LOGITS], wanted)
        if problem := _problem(found, difference):
            raise Disagrees(
                f"{problem} on images {list(images.shape)} in onnxruntime; the file is not kept: export "
                "with --to stablehlo, or try another version of onnxruntime"
            )
        yield f"{list(images.shape)}: logits differ by {difference:.0e} of the largest"


def relative_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference over the largest of `wanted`; NaN where something is not finite."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def _problem(found: Mapping[str, np.ndarray], difference: float) -> str | None:
    """What is wrong with the results of a file, or None. Its classes are to be those of its own logits."""
    if not difference <= TOLERANCE:  # nor may it be NaN
        return f"the file's logits differ by {difference:.2g} of the largest from the network's"
    if not np.array_equal(found["classes"], found[LOGITS].argmax(-1)):
        return "the file's classes are not those of its largest logits"
    if "probabilities" in found:
        powers = np.exp(found[LOGITS] - found[LOGITS].max(-1, keepdims=True))
        exact = powers / powers.sum(-1, keepdims=True)
        if not np.abs(found["probabilities"] - exact).max() <= TOLERANCE:
            return "the file's probabilities are not those of its logits"
    return None


def _session(path: pathlib.Path) -> Any:
    """The file in onnxruntime, on the CPU, with its logits as one more output."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    (logits,) = (x for x in model.graph.value_info if x.name == LOGITS)
    model.graph.output.append(logits)
    model.graph.value_info.remove(logits)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise Disagrees(f"onnxruntime cannot load the file ({first_line(error)}); it is not kept") from None


FORMAT = Format(
    suffix=".onnx",
    packages=("onnx", "onnxruntime"),
    install="onnx onnxruntime",
    dtypes=("float32",),
    any_task=False,
    write=write,
    compare=compare,
)
