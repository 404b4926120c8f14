"""The heads of Mask R-CNN: where objects may be, what and where they are, which pixels are theirs."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32

from ccnet_jax.models.detection.anchors import RATIOS
from ccnet_jax.models.layers import Dense, add_bias, conv, conv_init

_SMALL = nn.initializers.normal(0.01)


class RPNHead(nn.Module):
    """3x3, then for every anchor of every place a logit and the deltas of a box. Paper: Faster R-CNN, 3.1."""

    channels: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, level: Float[Array, "B h w C"]
    ) -> tuple[Float32[Array, "B n"], Float32[Array, "B n 4"]]:
        """A level -> logits and deltas of its anchors, in the order of `anchors.level_anchors`."""
        x = nn.relu(conv(self.channels, 3, bias=True, init=_SMALL, dtype=self.dtype, name="conv")(level))
        logits = Dense(len(RATIOS), kernel_init=_SMALL, dtype=self.dtype, name="objectness")(x)
        deltas = Dense(4 * len(RATIOS), kernel_init=_SMALL, dtype=self.dtype, name="deltas")(x)
        batch = len(level)
        return (
            logits.reshape(batch, -1).astype(jnp.float32),
            deltas.reshape(batch, -1, 4).astype(jnp.float32),
        )


class BoxHead(nn.Module):
    """Two fully connected layers, then a logit for every class and background, and a box for every class."""

    num_classes: int
    channels: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B n cells cells C"]
    ) -> tuple[Float32[Array, "B n logits"], Float32[Array, "B n classes 4"]]:
        """Features of regions -> logits, background first, and deltas."""
        x = x.reshape(*x.shape[:2], -1)
        x = nn.relu(Dense(self.channels, dtype=self.dtype, name="fc1")(x))
        x = nn.relu(Dense(self.channels, dtype=self.dtype, name="fc2")(x))
        logits = Dense(self.num_classes + 1, kernel_init=_SMALL, dtype=self.dtype, name="classes")(x)
        start = nn.initializers.normal(0.001)
        deltas = Dense(4 * self.num_classes, kernel_init=start, dtype=self.dtype, name="deltas")(x)
        return logits.astype(jnp.float32), deltas.reshape(*x.shape[:2], -1, 4).astype(jnp.float32)


class MaskHead(nn.Module):
    """Four 3x3, a transposed convolution that doubles the sides, and a mask for every class."""

    num_classes: int
    channels: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B n cells cells C"]) -> Float32[Array, "B n 2*cells 2*cells classes"]:
        """Features of regions -> logits of the pixels of twice as many cells."""
        shape = x.shape[:2]
        x = x.reshape(-1, *x.shape[2:])
        for i in range(1, 5):
            x = nn.relu(conv(self.channels, 3, bias=True, dtype=self.dtype, name=f"conv{i}")(x))
        x = nn.relu(TransposedConv(self.channels, dtype=self.dtype, name="upsample")(x))
        x = Dense(self.num_classes, dtype=self.dtype, name="masks")(x)
        _, cells, _, _, _, classes = x.shape
        return x.reshape(*shape, 2 * cells, 2 * cells, classes).astype(jnp.float32)


class TransposedConv(nn.Module):
    """A transposed convolution of 2x2 with stride 2: every pixel becomes 2x2, which no other pixel touches.

    That is a product of matrices. `nn.ConvTranspose` computes the same with the same parameters, but XLA's
    gradient of its kernel is slow on a CPU: `experiments.instance_speed` took 5.8 times torchvision's time.
    """

    channels: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w C"]) -> Float[Array, "n h 2 w 2 channels"]:
        """-> the pixels; the axes of 2 are the two rows and two columns that one pixel becomes."""
        kernel = self.param("kernel", conv_init, (2, 2, x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        # Taps of a convolution meet the pixels in the opposite order.
        return add_bias(jnp.einsum("nijc,abco->niajbo", x, kernel[::-1, ::-1]), bias)
