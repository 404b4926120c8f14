"""Criss-cross attention: `api` picks a backend, `reference` defines the meaning, one file a backend."""

from .api import IMPLEMENTATIONS, criss_cross_attention, packed_criss_cross_attention
from .backend import Backend

__all__ = ["IMPLEMENTATIONS", "Backend", "criss_cross_attention", "packed_criss_cross_attention"]
