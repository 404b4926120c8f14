"""The config of a run: the rooms' settings put together, files by name, recipes, the command line's part."""

from ccnet_jax.config.config import default

__all__ = ["default"]
