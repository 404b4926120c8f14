"""GPU kernels, one folder an op. Nothing here imports `ccnet_jax`."""

from kernels.criss_cross import criss_cross_attention, packed_criss_cross_attention

__all__ = ["criss_cross_attention", "packed_criss_cross_attention"]
