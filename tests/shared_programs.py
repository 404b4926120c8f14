"""Trainings of one process that share what they trace and compile, where their configs ask for the same."""

import functools

import pytest

from ccnet_jax import train
from ccnet_jax.tasks import instance, semantic

_build_optimizer = train.build_optimizer


def _optimizer(config, steps, is_trained):
    """`build_optimizer`: one for all numbers of steps, where the schedule does not ask for it."""
    return _optimizer_of(config, None if config.schedule == "multi_step" else steps, is_trained)


@functools.lru_cache(8)
def _optimizer_of(config, steps, is_trained):
    return _build_optimizer(config, max(config.milestones) + 1 if steps is None else steps, is_trained)


_PARTS = [  # (module, name of a function in it): equal arguments give the same result, which is kept
    (train, "make_initial_state"),
    (train, "make_train_step"),
    (semantic, "make_loss"),
    (instance, "make_instance_loss"),
]
_SHARED = [(module, name, functools.lru_cache(8)(getattr(module, name))) for module, name in _PARTS]


def share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the patch is undone."""
    monkeypatch.setattr(train, "build_optimizer", _optimizer)
    for module, name, cached in _SHARED:
        monkeypatch.setattr(module, name, cached)


def forget() -> None:
    """Let the next training compile."""
    for _, _, cached in _SHARED:
        cached.cache_clear()
