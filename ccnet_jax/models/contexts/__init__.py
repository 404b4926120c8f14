"""The context modules of the paper's Tables 4 and 7: one file each, and one line each in `CONTEXTS`."""

from ccnet_jax.models.contexts import aspp, none, nonlocal_, nonlocal_block, psp, rcca
from ccnet_jax.models.contexts.settings import BuildContext, Context, ContextSettings

__all__ = ["CONTEXTS", "BuildContext", "Context", "ContextSettings"]

CONTEXTS: dict[str, BuildContext] = {
    "none": none.build,
    "rcca": rcca.build,
    "psp": psp.build,
    "aspp": aspp.build,
    "nonlocal": nonlocal_.build,
    "nonlocal_block": nonlocal_block.build,
}
