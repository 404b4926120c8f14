"""Criss-cross attention: `api` picks a backend, `reference` defines the meaning, one file a backend."""

from kernels.criss_cross.api import IMPLEMENTATIONS, criss_cross_attention, packed_criss_cross_attention
from kernels.criss_cross.backend import Backend

__all__ = ["IMPLEMENTATIONS", "Backend", "criss_cross_attention", "packed_criss_cross_attention"]
