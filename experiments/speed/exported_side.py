"""Exported files as contenders of `experiments.export_latency`, as a server runs them."""

import pathlib
from typing import Any

import numpy as np

from experiments.speed import cases, worker
from experiments.speed.cases import Case
from experiments.speed.worker import Contender

DEFAULT_OPTIONS = "jax stablehlo, default options"  # the contender without them


def prepare(case: Case, name: str, folder: pathlib.Path, request: dict[str, Any]) -> Contender:
    """The file that the request names, on the CPU; label maps uint8 [B, H, W]."""
    path, images = pathlib.Path(request["files"][name]), cases.images(case)
    if path.suffix == ".onnx":
        return in_onnxruntime(path, images)
    return in_jax(path, images, default_options=name == DEFAULT_OPTIONS)


def in_jax(path: pathlib.Path, images: np.ndarray, default_options: bool) -> Contender:
    """A StableHLO file in JAX, compiled once, with the options that docs/export.md names or without."""
    import jax
    from jax import export

    from ccnet_jax.common.devices import compiler_options

    program = export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(program.call, compiler_options={} if default_options else compiler_options())
    on_device = jax.device_put(images)

    def labels() -> jax.Array:
        return call(on_device)["classes"]

    def wait(labels: jax.Array) -> None:
        labels.block_until_ready()

    return Contender(labels, wait, worker.resident_bytes, logits=lambda: np.asarray(labels()[0]))


def in_onnxruntime(path: pathlib.Path, images: np.ndarray) -> Contender:
    """An ONNX file in onnxruntime, with its own choice of threads and optimizations."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def labels() -> np.ndarray:
        return session.run(["classes"], {"images": images})[0]

    return Contender(labels, lambda _: None, worker.resident_bytes, logits=lambda: labels()[0])


if __name__ == "__main__":
    worker.serve(prepare)
