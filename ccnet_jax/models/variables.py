"""The variables of a network, as Flax keeps them."""

from typing import Any, TypeAlias

# {"params": ..., "batch_stats": ...}, nested dictionaries with arrays, or what stands for arrays, as leaves.
Variables: TypeAlias = dict[str, Any]
