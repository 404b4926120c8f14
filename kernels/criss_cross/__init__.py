"""Criss-cross attention: `api` picks a backend, `reference` defines the meaning, one file a backend."""

from kernels.criss_cross.api import IMPLEMENTATIONS, criss_cross_attention, packed_criss_cross_attention

__all__ = ["IMPLEMENTATIONS", "criss_cross_attention", "packed_criss_cross_attention"]
