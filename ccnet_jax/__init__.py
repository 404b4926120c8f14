"""CCNet (criss-cross attention for semantic segmentation, ICCV 2019) in JAX."""

from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.criss_cross import RCCA, CrissCrossAttention

__all__ = ["RCCA", "CCNet", "CrissCrossAttention"]
__version__ = "0.1.0"
