"""CCNet: a backbone, a head around a context module, an auxiliary head. Paper: Figure 2."""

import numbers
from collections.abc import Iterable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ccnet_jax.common.fields import nearest
from ccnet_jax.common.kernels import IMPLEMENTATIONS
from ccnet_jax.models.backbones import BACKBONES, BackboneSettings
from ccnet_jax.models.backbones.resnet import STEMS
from ccnet_jax.models.contexts import CONTEXTS, ContextSettings
from ccnet_jax.models.flavours import FLAVOURS, normalize
from ccnet_jax.models.layers import REMAT, ConvNorm, Dense, scale_channels, with_remat
from ccnet_jax.models.resize import resize_bilinear

_DTYPES = ("float32", "bfloat16", "float64")


class ContextModule(nn.Module):
    """A member of `CONTEXTS`, whose parameters stand under its name."""

    context: str
    settings: ContextSettings

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """x: [B, H, W, C] -> [B, H, W, C]."""
        return CONTEXTS[self.context](self.settings, self.context)(x, train)


class Head(nn.Module):
    """3x3, context module, 3x3, joined with its input, 3x3, dropout of whole channels, 1x1."""

    num_classes: int
    channels: int
    context: str
    settings: ContextSettings

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w classes"]:
        """x: [B, h, w, C] -> logits [B, h, w, num_classes]."""
        slope, dtype = self.settings.negative_slope, self.settings.dtype

        def block(name: str) -> ConvNorm:
            layer = norms_recomputed(self.settings.remat)
            return layer(self.channels, negative_slope=slope, dtype=dtype, name=name)

        out = block("before")(x, train)
        out = ContextModule(self.context, self.settings, name="context")(out, train)
        out = block("after")(out, train)
        out = block("fuse")((x, out), train)
        return _classify(out, self.num_classes, train, dtype)


class AuxiliaryHead(nn.Module):
    """3x3, dropout of whole channels, 1x1, on stage 3; used in training only."""

    num_classes: int
    channels: int
    bias: bool
    negative_slope: float
    remat: str = "none"
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], train: bool) -> Float[Array, "B h w classes"]:
        """x: [B, h, w, C] -> logits [B, h, w, num_classes]."""
        layer = norms_recomputed(self.remat)
        block = layer(
            self.channels, bias=self.bias, negative_slope=self.negative_slope, dtype=self.dtype, name="conv"
        )
        return _classify(block(x, train), self.num_classes, train, self.dtype)


def norms_recomputed(remat: str) -> type[ConvNorm]:
    """The heads' layers under `remat`: they are few, so that nothing but norms need be computed again."""
    return with_remat(ConvNorm, "none" if remat == "none" else "norms")


def _classify(
    x: Float[Array, "B h w C"], num_classes: int, train: bool, dtype: DTypeLike | None
) -> Float[Array, "B h w classes"]:
    x = nn.Dropout(0.1, broadcast_dims=(1, 2), deterministic=not train)(x)
    start = nn.initializers.normal(0.01)
    return Dense(num_classes, kernel_init=start, dtype=dtype, name="classifier")(x)


class CCNet(nn.Module):
    """The whole network, from RGB images to full-size logits.

    Attributes:
      num_classes: of the logits.
      depth: one of the backbone's (`BACKBONES[backbone].depths`).
      flavour: a key of `FLAVOURS`.
      context: a key of `CONTEXTS`; "rcca" is CCNet.
      loops: of RCCA.
      width: multiplier of every channel count.
      stem: of the ResNet, one of `STEMS`; both code bases have the deep one.
      align_corners: how logits, and PSP's pooled features, are upsampled; None is the flavour's way.
      implementation: backend of criss-cross attention; None chooses by device.
      remat: what the backward pass computes again instead of keeping it, a key of `REMAT`: "none"; "norms",
        norms and activations; "blocks", the backbone's blocks, RCCA's projections and the heads' norms.
      dtype: of the computation, float32 or bfloat16; parameters, statistics and logits are float32. For
        checks also float64, under `jax_enable_x64` and with float64 variables; logits are float64 then.
      backbone: a key of `BACKBONES`.

    Raises:
      ValueError: an attribute has a value that does not exist or is out of range.
    """

    num_classes: int
    depth: int = 50
    flavour: str = "official"
    context: str = "rcca"
    loops: int = 2
    width: float = 1.0
    stem: str = "deep"
    align_corners: bool | None = None
    implementation: str | None = None
    remat: str = "none"
    dtype: DTypeLike = jnp.float32
    backbone: str = "resnet"

    def __post_init__(self) -> None:
        """Check the attributes. Raises ValueError."""
        _check_choice("backbone", self.backbone, BACKBONES)
        _check_choice("depth", self.depth, BACKBONES[self.backbone].depths)
        _check_choice("flavour", self.flavour, FLAVOURS)
        _check_choice("context", self.context, CONTEXTS)
        _check_choice("stem", self.stem, STEMS)
        _check_choice("remat", self.remat, REMAT)
        for name in ("num_classes", "loops"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number that is at least 1, not {value!r}")
        if self.implementation is not None:
            _check_choice("implementation", self.implementation, IMPLEMENTATIONS)
        _check_choice("dtype", jnp.dtype(self.dtype).name, _DTYPES)
        if not isinstance(self.width, numbers.Real) or not 0 < self.width < float("inf"):
            raise ValueError(f"width must be a number above 0, not {self.width!r}")
        super().__post_init__()

    @property
    def aligns_corners(self) -> bool:
        """`align_corners`, or the flavour's."""
        flavour = FLAVOURS[self.flavour]
        return flavour.align_corners if self.align_corners is None else self.align_corners

    @nn.compact
    def __call__(
        self,
        images: Array | np.ndarray,  # of any shape and dtype: `check_images` says what is wrong with them
        train: bool = False,
        upsample: bool = True,
    ) -> tuple[Float[Array, "B rows columns classes"], Float[Array, "B rows columns classes"] | None]:
        """RGB images to logits of the same size.

        Args:
          images: [B, H, W, 3], 0 to 255, uint8 or floating.
          train: use and update batch statistics, drop channels (rng "dropout"), run the auxiliary head.
          upsample: to the images' size; False leaves the logits as the heads give them, [B, h, w,
            num_classes] with an eighth of each side.

        Returns:
          logits [B, H, W, num_classes] in float32 or float64, and the auxiliary head's, None unless training.

        Raises:
          ValueError: images of another shape; dtype float64 without `jax_enable_x64`.
          TypeError: images of another dtype.
        """
        check_images(images)
        flavour = FLAVOURS[self.flavour]
        wide = jnp.promote_types(self.dtype, jnp.float32)
        if jax.dtypes.canonicalize_dtype(wide) != wide:
            raise ValueError(f"dtype={wide.name} needs jax.enable_x64(True), without which JAX takes float32")
        x = normalize(images, flavour, wide).astype(self.dtype)
        backbone = BackboneSettings(self.depth, flavour, self.stem, self.width, self.remat, self.dtype)
        *_, stage3, stage4 = BACKBONES[self.backbone].build(backbone, "backbone")(x, train)

        context = ContextSettings(
            self.loops,
            self.implementation,
            self.aligns_corners,
            flavour.negative_slope,
            self.remat,
            self.dtype,
        )
        head = Head(self.num_classes, scale_channels(512, self.width), self.context, context, name="head")
        auxiliary_head = AuxiliaryHead(
            self.num_classes,
            scale_channels(flavour.auxiliary_channels, self.width),
            flavour.auxiliary_bias,
            flavour.negative_slope,
            self.remat,
            self.dtype,
            name="auxiliary_head",
        )

        def upsampled(logits: Array) -> Array:
            logits = logits.astype(wide)
            return resize_bilinear(logits, images.shape[1:3], self.aligns_corners) if upsample else logits

        logits = upsampled(head(stage4, train))
        if not (train or self.is_initializing()):
            return logits, None
        return logits, upsampled(auxiliary_head(stage3, train))


def check_images(images: Array | np.ndarray) -> None:
    """Check shape and dtype of what the network is called with: uint8 or floating [B, H, W, 3].

    Works on traced arrays too, since no value is read.

    Raises:
      ValueError: the shape is another.
      TypeError: the dtype is another.
    """
    shape, wanted = tuple(images.shape), "the network takes RGB images [B, H, W, 3]"
    if len(shape) == 3 and shape[-1] == 3:
        raise ValueError(f"images of shape {shape} have no batch axis, and {wanted}; pass images[None]")
    if len(shape) != 4:
        raise ValueError(f"images have shape {shape}, but {wanted}")
    if shape[-1] != 3:
        remedy = ""
        if shape[1] == 3:
            remedy = " with the channels last; pass images.transpose(0, 2, 3, 1)"
        elif shape[-1] == 1:
            remedy = ", not grey ones; pass jnp.repeat(images, 3, -1)"
        elif shape[-1] == 4:
            remedy = ", without alpha; pass images[..., :3]"
        raise ValueError(f"images have shape {shape}, but {wanted}{remedy}")
    if 0 in shape:
        raise ValueError(f"images of shape {shape} are empty; pass at least one image")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images have the dtype {images.dtype}, but the network takes uint8, or floating numbers from 0 "
            "to 255; convert them"
        )


def _check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ValueError where the value is none of the choices."""
    known = list(choices)
    if value not in known:
        suggestion = nearest(str(value), map(str, known))
        raise ValueError(
            f"{name}={value!r} does not exist; choose one of {', '.join(map(str, known))}{suggestion}"
        )
