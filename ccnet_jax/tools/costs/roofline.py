"""The least time of a program: of its operations at the GPU's peak, or of its bytes at full bandwidth."""

import dataclasses

from ccnet_jax.common.kernels import Gpu


@dataclasses.dataclass(frozen=True)
class Bound:
    """Attributes: seconds, and what bounds them, "compute" or "memory"."""

    seconds: float
    by: str


def bound(gpu: Gpu, products: int, accessed_bytes: int, dtype: str) -> Bound:
    """The larger of both times. No program reaches it, and it is no measurement.

    Args:
      gpu: a member of `GPUS`.
      products: floating point operations of convolutions, matrix products and attention.
      accessed_bytes: of device memory; 0 where they are not known.
      dtype: of the computation.
    """
    compute, memory = products / gpu.flops[dtype], accessed_bytes / gpu.bandwidth
    return Bound(compute, "compute") if compute >= memory else Bound(memory, "memory")
