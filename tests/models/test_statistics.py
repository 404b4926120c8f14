import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from ccnet_jax import CCNet
from ccnet_jax.models.batch_norm import BatchNorm
from ccnet_jax.models.statistics import SingleValue, every_norm_checked, part_of_a_batch


def trained(module, *shape, **options):
    """The shapes of a call in training, of the result and of the new statistics."""

    def call(x):
        variables = module.init(jax.random.key(0), x)
        return module.apply(variables, x, mutable=["batch_stats"], **options)

    return jax.eval_shape(call, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_batch_norm_over_one_value_is_refused_as_in_pytorch():
    with pytest.raises(ValueError, match=r"more than 1 value per channel in training.*\[1, 1, 1, 8\]"):
        trained(BatchNorm(False), 1, 1, 1, 8)
    for shape in ((2, 1, 1, 8), (1, 1, 2, 8), (1, 2, 1, 1)):
        assert trained(BatchNorm(False), *shape)[0].shape == shape
    trained(BatchNorm(True), 1, 1, 1, 8)  # in testing any number will do
    with part_of_a_batch():
        trained(BatchNorm(False), 1, 1, 1, 8)


@pytest.mark.parametrize("context", ["psp", "aspp"])
def test_a_loop_of_ones_own_meets_it_too(context, tiny_backbone):
    network = CCNet(3, 2, context=context, width=0.125, backbone="tiny")
    options = {"train": True, "rngs": {"dropout": jax.random.key(0)}}
    with pytest.raises(ValueError, match=rf"head/context/{context}/.*expects more than 1 value per channel"):
        trained(network, 1, 64, 64, 3, **options)
    trained(network, 2, 64, 64, 3, **options)


class OwnNorm(nn.Module):
    """Channels first, and a variance only, under names of its own."""

    @nn.compact
    def __call__(self, x):
        power = self.variable("batch_stats", "power", jnp.ones, x.shape[1])
        if not self.is_initializing():
            power.value = 0.9 * power.value + 0.1 * jnp.mean(x * x, (0, 2, 3))
        return x / power.value[:, None, None]


class Inside(nn.Module):
    """A norm that is reached as norms in networks are."""

    norm: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.remat(lambda module, x: module.norm(x))(self, x)


# (a norm, an input with one value for each mean and variance, another with two)
NORMS = [
    (nn.BatchNorm(False), (1, 1, 1, 8), (1, 1, 2, 8)),
    (nn.BatchNorm(False), (1, 8), (2, 8)),
    (BatchNorm(False), (1, 1, 1, 8), (2, 1, 1, 8)),
    (OwnNorm(), (1, 8, 1, 1), (1, 8, 1, 2)),
    (nn.GroupNorm(8), (4, 1, 1, 8), (4, 1, 1, 16)),
    (nn.GroupNorm(None, group_size=1), (4, 1, 1, 8), (4, 1, 2, 8)),
    (nn.InstanceNorm(), (4, 1, 1, 8), (4, 2, 1, 8)),
]


@pytest.mark.parametrize(("norm", "one", "two"), NORMS)
def test_every_norm_is_found_whoever_wrote_it(norm, one, two):
    with every_norm_checked():
        trained(Inside(norm), *two)
        with pytest.raises(SingleValue, match=r"^norm expects more than 1 value") as found:
            trained(Inside(norm), *one)
    assert found.value.shape == one


def test_statistics_that_stay_as_they_are_may_be_of_anything():
    with every_norm_checked():
        trained(Inside(nn.BatchNorm(True)), 1, 1, 1, 8)
