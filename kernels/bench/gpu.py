"""GPUs that programs can be compiled for and costs estimated for: what their makers' data sheets say.

`gpus/NAME.txtpb` describes each of them to the compiler.
"""

import dataclasses
import functools
import pathlib
import re

_FOLDER = pathlib.Path(__file__).parent / "gpus"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
      name: a key of `GPUS`, and of a file in `gpus/`.
      architecture: ptxas's name for it.
      flops: {dtype of the computation: peak of dense matrix products, FLOP/s}. float32 products run as TF32,
        which is XLA's default; the sums are float32 for both.
      source: where the peaks come from.
    """

    name: str
    architecture: str
    flops: dict[str, float]
    source: str

    @functools.cached_property
    def description(self) -> str:
        """What the compiler reads, a text protocol buffer."""
        return (_FOLDER / f"{self.name}.txtpb").read_text()

    @property
    def memory_bytes(self) -> int:
        """Of the device."""
        return int(self._number("device_memory_size"))

    @property
    def bandwidth(self) -> float:
        """Of the device's memory, bytes/s."""
        return self._number("memory_bandwidth")

    @property
    def title(self) -> str:
        """The maker's name for it, for example "NVIDIA H200"."""
        return re.search(r'^  name: "(.+)"', self.description, re.MULTILINE)[1]  # type: ignore[index]

    def _number(self, field: str) -> float:
        return float(re.search(rf"^\s*{field}: (\S+)", self.description, re.MULTILINE)[1])  # type: ignore[index]


def _gpu(name: str, architecture: str, bfloat16: float, float32: float, source: str) -> Gpu:
    """Peaks in TFLOP/s."""
    return Gpu(name, architecture, {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12}, source)


# Data sheets that give peaks with structured sparsity are halved: a dense product does half of it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("h200", "sm_90a", 989.5, 494.5, "NVIDIA H200 data sheet, SXM"),
        _gpu("h100", "sm_90a", 989.5, 494.5, "NVIDIA H100 data sheet, SXM"),
        _gpu("a100", "sm_80", 312, 156, "NVIDIA A100 data sheet, SXM, 80 GB"),
        _gpu("l40s", "sm_89", 362.05, 183, "NVIDIA L40S data sheet"),
        _gpu("a10", "sm_86", 125, 62.5, "NVIDIA A10 data sheet"),
        _gpu("rtx4090", "sm_89", 165.2, 82.6, "NVIDIA Ada GPU architecture white paper, appendix A"),
        _gpu("rtx3090", "sm_86", 71, 35.6, "NVIDIA Ampere GA102 GPU architecture white paper, appendix A"),
    )
}
