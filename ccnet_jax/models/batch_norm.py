"""Batch norm with a gradient of its own, which keeps the input and nothing else of its size."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.models.statistics import check_count

_Three = tuple[jax.Array, jax.Array, jax.Array]


class BatchNorm(nn.Module):
    """Batch norm over the whole (global) batch.

    Statistics are float32 whatever the dtype. Under `jax.jit` with the batch sharded over devices
    they are the global batch's, which is what PyTorch calls synchronised. As in PyTorch, a batch of n
    values a channel is normalised by its biased variance (1 / n), and the running variance takes the unbiased
    one (1 / (n - 1)).

    Flax's `nn.BatchNorm` has the same variables and results, but for the running variance, which is biased
    there, and a gradient in which XLA keeps the centred input beside the input.

    Attributes:
      use_running_average: normalise with the running statistics, and leave them as they are.
      momentum: fraction of the old running statistics in the new ones.
      epsilon: added to the variance.
      dtype: of the result; None is that of the input.
      scale_init: of the scale.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """x: [B, H, W, C] -> the same shape.

        Raises ValueError where a channel has a single value and the batch's statistics are used, as PyTorch.
        """
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.use_running_average:
            out = _affine(x, running_mean.value, _factor(running_var.value, scale, self.epsilon), bias)
        else:
            out, mean, var = normalize(x, scale, bias, self.epsilon)
            if not self.is_initializing():
                count = x.size // x.shape[-1]
                check_count(self.path, x.shape, count)
                unbiased = var * (count / max(count - 1, 1))  # 1 only where a device's part is traced alone
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return out.astype(x.dtype if self.dtype is None else self.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def normalize(
    x: Float[Array, "B H W C"], scale: Float[Array, " C"], bias: Float[Array, " C"], epsilon: float
) -> tuple[Float[Array, "B H W C"], Float[Array, " C"], Float[Array, " C"]]:
    """x with the mean `bias` and the deviation `scale` in each channel, and the mean and variance it had.

    All in float32, or x's dtype where that is wider.
    """
    wide = _to_float32(x)
    mean, square = _mean(wide), _mean(wide * wide)
    var = jnp.maximum(square - mean * mean, 0)  # rounding can make it negative
    return _affine(wide, mean, _factor(var, scale, epsilon), bias), mean, var


@normalize.defjvp
def _normalized_jvp(epsilon: float, primals: _Three, tangents: _Three) -> tuple[_Three, _Three]:
    """The change of out = x * factor + (bias - mean * factor).

    Its transpose is the gradient: two sums over the pixels, of g and of g * x, where g is the gradient of
    the result; then for each pixel g times one number of its channel, plus x times another, plus a third.
    """
    x, scale, _ = primals
    out, mean, var = normalize(*primals, epsilon)
    x, x_change = _to_float32(x), _to_float32(tangents[0])
    factor = _factor(var, scale, epsilon)
    mean_change = _mean(x_change)
    var_change = 2 * (_mean(x * x_change) - mean * mean_change)
    factor_change = _factor(var, tangents[1], epsilon) - factor * var_change / (2 * (var + epsilon))
    shift_change = tangents[2] - mean_change * factor - mean * factor_change
    return (out, mean, var), (x_change * factor + x * factor_change + shift_change, mean_change, var_change)


def _to_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _mean(x: jax.Array) -> jax.Array:
    """Of each channel, [C]."""
    return jnp.mean(x, axis=(0, 1, 2))


def _factor(var: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    return jax.lax.rsqrt(var + epsilon) * scale


def _affine(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    return (x - mean) * factor + bias
