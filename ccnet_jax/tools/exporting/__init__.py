"""Trained networks as files that other programs run: one file a format, and one line each in `FORMATS`."""

from ccnet_jax.tools.exporting import onnx, saved_model, stablehlo
from ccnet_jax.tools.exporting.formats import Format

__all__ = ["FORMATS", "Format"]

FORMATS: dict[str, Format] = {
    "stablehlo": stablehlo.FORMAT,
    "onnx": onnx.FORMAT,
    "saved_model": saved_model.FORMAT,
}
