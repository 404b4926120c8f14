"""Recurrent criss-cross attention, the context module of CCNet."""

from ccnet_jax.models.contexts.settings import Context, ContextSettings
from ccnet_jax.models.criss_cross import RCCA


def build(settings: ContextSettings, name: str) -> Context:
    """The member of `CONTEXTS`."""
    module = RCCA(
        settings.loops,
        implementation=settings.implementation,
        dtype=settings.dtype,
        remat=settings.remat == "blocks",
        name=name,
    )
    return lambda x, train: module(x)
