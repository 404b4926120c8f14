"""TensorFlow's SavedModel, a folder that TensorFlow and its servers load.

`jax2tf` puts the same StableHLO program as `stablehlo` into one operation of TensorFlow, XlaCallModule.
TensorFlow compiles it with an XLA of its own, whose rounding may be another.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ccnet_jax.tools.exporting.formats import Disagrees, Format
from ccnet_jax.tools.exporting.program import Program

TOLERANCE = 1e-3  # of probabilities; of classes, the fraction of pixels


def write(program: Program, path: pathlib.Path) -> None:
    """Write the folder, with one signature, "serving_default"."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    inputs = program.inputs()
    shapes = [f"({', '.join(map(str, x.shape))})" for x in inputs.values()]
    converted = jax2tf.convert(
        program.call,
        polymorphic_shapes=shapes,
        polymorphic_constraints=program.shape.limits(),
        with_gradient=False,
        native_serialization_platforms=("cpu", "cuda"),
    )
    signature = [
        tf.TensorSpec([x if isinstance(x, int) else None for x in like.shape], like.dtype, name)
        for name, like in inputs.items()
    ]
    module = tf.Module()
    module.call = tf.function(converted, input_signature=signature, autograph=False)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.call})


def compare(program: Program, path: pathlib.Path) -> Iterator[str]:
    """Load the folder and run it beside the jitted model. Raises Disagrees where results differ."""
    import tensorflow as tf

    call = tf.saved_model.load(str(path)).signatures["serving_default"]
    for arguments in program.examples():
        named = dict(zip(program.inputs(), map(tf.constant, arguments), strict=True))
        try:
            found = {name: x.numpy() for name, x in call(**named).items()}
        except tf.errors.OpError as error:
            raise Disagrees(
                f"TensorFlow {tf.__version__} cannot run a program of JAX {jax.__version__} "
                f"({type(error).__name__}); the folder is not kept: use a newer TensorFlow, an older JAX, or "
                "--to stablehlo"
            ) from None
        wanted = {name: np.asarray(x) for name, x in jax.jit(program.call)(*arguments).items()}
        worst = max(_difference(found[name], value) for name, value in wanted.items())
        if not worst <= TOLERANCE:
            raise Disagrees(
                f"the SavedModel's results of images {list(arguments[0].shape)} differ by {worst:.2g} from "
                "the jitted model's; the folder is not kept: export with --to stablehlo"
            )
        yield f"{list(arguments[0].shape)}: results differ by at most {worst:.0e}"


def _difference(found: Any, wanted: np.ndarray) -> float:
    """Of classes the fraction that differs; of probabilities the largest difference."""
    if wanted.dtype == np.uint8:
        return float((found != wanted).mean())
    return float(np.abs(found - wanted).max())


FORMAT = Format(
    suffix="",
    packages=("tensorflow",),
    install="tensorflow",
    dtypes=("float32",),
    any_task=False,
    write=write,
    compare=compare,
)
