"""Derivatives that are written by hand, and layers in a form of their own, in a compiled chain of neighbours.

A rule that is right alone may be wrong in a program: XLA computes a value again wherever it is read, rounded
otherwise, and a rule that compares the two goes wrong. So each part stands here between a convolution, a norm
and a ReLU before it and a convolution after it, at the width that it has in the networks, compiled as users
compile. Its gradients, with and without recomputation, are held against a plain formulation in float64.
"""

import ast
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.backbones.resnet import max_pool
from ccnet_jax.models.batch_norm import normalize
from ccnet_jax.models.detection import roi_align
from ccnet_jax.models.detection.heads import TransposedConv
from ccnet_jax.models.layers import (
    JoinedConv,
    convolution_by_phases,
    relu_of_sum,
)
from ccnet_jax.models.resize import resize_bilinear
from ccnet_jax.training.losses import cross_entropy, ohem_cross_entropy
from ccnet_jax.training.upsampled import UpsampledLogits
from kernels import criss_cross_attention, packed_criss_cross_attention
from tests.compiling import AS_USERS

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
EPSILON = 1e-5
BOXES = np.array([[[3.2, 5.1, 80.7, 61.9], [0, 0, 104, 104], [-9, 20, 30, 70], [50, 50, 51, 51]]], np.float32)
LABELS = np.random.default_rng(2).integers(0, 24, (2, 97, 97)).astype(np.uint8)
LABELS[LABELS >= 19] = 255


@dataclasses.dataclass(frozen=True)
class Link:
    """A part of the networks, and what it computes.

    Attributes:
      rules: (file, name) of the functions with a derivative of their own that `ours` uses.
      ours: x [2, H, W, C] -> an array, as the networks call it.
      plain: the same by other means, of which JAX makes the derivative.
      channels: C.
      side: H and W.
      images: of the batch.
      bfloat16: the largest relative error in bfloat16: a quarter more than the plain formulation has there.
      options: of the compiler. The kernels' interpreter compiles as the tests do: no user has it.
      kernel: shape of an array that `ours` and `plain` take beside x.
    """

    rules: tuple[tuple[str, str], ...]
    ours: Callable[..., jax.Array]
    plain: Callable[..., jax.Array]
    channels: int
    side: int
    images: int
    bfloat16: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=lambda: AS_USERS)
    kernel: tuple[int, ...] | None = None


def conv(x: jax.Array, kernel: jax.Array, dilation: int = 1) -> jax.Array:
    pad = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        (1, 1),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def plain_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean((0, 1, 2))
    var = ((wide - mean) ** 2).mean((0, 1, 2))
    return ((wide - mean) / jnp.sqrt(var + EPSILON) * scale + bias).astype(x.dtype)


def scale_and_bias(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return (
        jnp.linspace(0.5, 1.5, x.shape[-1], dtype=jnp.float32).astype(wide),
        jnp.linspace(-0.3, 0.3, x.shape[-1], dtype=jnp.float32).astype(wide),
    )


def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two arrays that come from one, as a block's result and its shortcut."""
    return x, jnp.roll(x, 1, -1) - 0.5 * jnp.roll(x, 2, 1) - 0.1


def parts(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value of the paper's width, of x [B, H, W, 640]."""
    return 0.3 * x[..., :64], 0.3 * x[..., 64:128], x[..., 128:]


def dense_attention(x: jax.Array) -> jax.Array:
    """Criss-cross attention with a mask, among all pairs of pixels."""
    query, key, value = (y.reshape(len(x), -1, y.shape[-1]) for y in parts(x))
    place = np.arange(x.shape[1] * x.shape[2])
    row, column = np.divmod(place, x.shape[2])
    seen = (row[:, None] == row) | (column[:, None] == column)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    energy = jnp.where(seen, jnp.einsum("bpd,bqd->bpq", query, key, preferred_element_type=wide), -jnp.inf)
    weights = jax.nn.softmax(energy, -1).astype(x.dtype)
    return jnp.einsum("bpq,bqc->bpc", weights, value).reshape(*x.shape[:3], -1)


def attention(implementation: str, x: jax.Array) -> jax.Array:
    return criss_cross_attention(*parts(x), implementation=implementation)


def packed_attention(implementation: str, x: jax.Array) -> jax.Array:
    packed = jnp.concatenate(parts(x), -1)
    return packed_criss_cross_attention(packed, 64, implementation=implementation)


def regions(x: jax.Array) -> jax.Array:
    """RoIAlign of a pyramid of two levels, [1, n, cells, cells, C] -> [n, cells, cells, C]."""
    levels = x, x[:, ::2, ::2]
    return roi_align.roi_align(levels, jnp.asarray(BOXES), 7, (8, 16))[0]


def plain_regions(x: jax.Array) -> jax.Array:
    """The same as a product with a matrix of all weights."""
    levels = x, x[:, ::2, ::2]
    flat = jnp.concatenate([level.reshape(-1, x.shape[-1]) for level in levels])
    sizes = np.array([level.shape[1:3] for level in levels], np.int32)
    pixels, weights = roi_align.all_taps(jnp.asarray(BOXES), 7, sizes, np.array((8, 16), np.float32))
    cells = jnp.arange(pixels[0, 0].size)
    matrix = jnp.zeros((len(cells), len(flat)), jnp.promote_types(x.dtype, jnp.float32))
    for pixel, weight in zip(pixels[:, 0], weights[:, 0], strict=True):
        matrix = matrix.at[cells, pixel.ravel()].add(weight.ravel())
    return (matrix @ flat).astype(x.dtype).reshape(*pixels.shape[2:], -1)


def doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    module = TransposedConv(256, dtype=x.dtype)
    variables = {"params": {"kernel": kernel, "bias": jnp.linspace(-0.1, 0.1, 256)}}
    return module.apply(variables, x).reshape(len(x), 2 * x.shape[1], 2 * x.shape[2], -1)


def plain_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    bias = jnp.linspace(-0.1, 0.1, 256, dtype=jnp.float32).astype(x.dtype)
    return jax.lax.conv_transpose(x, kernel, (2, 2), "VALID") + bias


def phases(x: jax.Array, kernel: jax.Array) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    return convolution_by_phases(x, kernel, (4, 4), ((4, 4), (4, 4)), dimension_numbers=dimensions)


def joined(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return JoinedConv(512, 3, x.dtype).apply({"params": {"kernel": kernel}}, halves(x))


def plain_joined(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return conv(jnp.concatenate(halves(x), -1), kernel)


def resized(aligned: bool, x: jax.Array) -> jax.Array:
    return resize_bilinear(x, (40, 33), aligned)


def plain_resized(aligned: bool, x: jax.Array, size: tuple[int, int] = (40, 33)) -> jax.Array:
    """By a gather of four pixels."""
    for axis, out in zip((1, 2), size, strict=True):
        side = x.shape[axis]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        place = (
            np.arange(out) * (side - 1) / (out - 1) if aligned else (np.arange(out) + 0.5) * side / out - 0.5
        )
        place = np.clip(place, 0, side - 1)
        before = np.floor(place).astype(int)
        after = np.minimum(before + 1, side - 1)
        fraction = jnp.asarray((place - before).astype(wide)).reshape((-1,) + (1,) * (3 - axis))
        x = ((1 - fraction) * jnp.take(x, before, axis) + fraction * jnp.take(x, after, axis)).astype(x.dtype)
    return x


def losses(loss: Callable[..., jax.Array], aligned: bool, x: jax.Array) -> jax.Array:
    """A loss of logits at an eighth of the labels' size."""
    logits = UpsampledLogits(x.astype(jnp.promote_types(x.dtype, jnp.float32)), aligned)
    return 1e4 * loss(logits, jnp.asarray(LABELS)).value[None]


def plain_losses(hard: bool, aligned: bool, x: jax.Array) -> jax.Array:
    logits = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    logits = plain_resized(aligned, logits, LABELS.shape[1:])
    valid = LABELS != 255
    wanted = np.where(valid, LABELS, 0)[..., None]
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(wanted), -1)[..., 0]
    kept = jnp.asarray(valid)
    if hard:
        order = jnp.argsort(jnp.where(valid, -entropy, jnp.inf).ravel())
        ranks = jnp.zeros(order.shape, int).at[order].set(jnp.arange(order.size)).reshape(entropy.shape)
        kept &= (ranks < 2 * 5000) | (jnp.exp(-entropy) <= 0.05)
    return 1e4 * ((entropy * kept).sum() / kept.sum())[None]


_POOL = ("ccnet_jax/models/backbones/resnet.py", "_max_pool")
_SUM = ("ccnet_jax/models/layers.py", "relu_of_sum")
_NORM = ("ccnet_jax/models/batch_norm.py", "normalize")
_REGIONS = ("ccnet_jax/models/detection/roi_align.py", "_weighted_pixels")
_ATTEND = ("kernels/criss_cross/pallas_triton.py", "_attend")


def plain_pool(padding: tuple[int, int], x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), (padding, padding))


hard = partial(ohem_cross_entropy, threshold=0.05, min_kept=5000)
LINKS = {
    "max pool, official": Link(
        (_POOL,), lambda x: max_pool(x, True), partial(plain_pool, (1, 2)), 128, 26, 2, 8e-2
    ),
    "max pool, mmseg": Link(
        (_POOL,), lambda x: max_pool(x, False), partial(plain_pool, (1, 1)), 64, 33, 2, 8e-2
    ),
    "relu of sum": Link(
        (_SUM,), lambda x: relu_of_sum(*halves(x)), lambda x: nn.relu(sum(halves(x))), 2048, 9, 2, 3e-2
    ),
    "norm": Link(
        (_NORM,),
        lambda x: our_norm(x, *scale_and_bias(x)),
        lambda x: plain_norm(x, *scale_and_bias(x)),
        2048,
        9,
        2,
        3e-2,
    ),
    "convolution by phases": Link(
        (), phases, partial(conv, dilation=4), 512, 7, 1, 6e-3, kernel=(3, 3, 512, 512)
    ),
    "joined convolution": Link((), joined, plain_joined, 512, 4, 1, 6e-3, kernel=(3, 3, 1024, 512)),
    "transposed convolution": Link((), doubled, plain_doubled, 256, 7, 1, 6e-3, kernel=(2, 2, 256, 256)),
    "resize": Link((), partial(resized, False), partial(plain_resized, False), 512, 13, 2, 6e-3),
    "upsampled loss": Link(
        (), partial(losses, cross_entropy, False), partial(plain_losses, False, False), 19, 13, 2, 6e-3
    ),
    "upsampled OHEM": Link(
        (), partial(losses, hard, True), partial(plain_losses, True, True), 19, 13, 2, 2e-2
    ),
    "RoIAlign": Link((_REGIONS,), regions, plain_regions, 256, 13, 1, 6e-3),
    "attention, xla": Link((), partial(attention, "xla"), dense_attention, 640, 9, 1, 8e-3),
    "attention, triton": Link(
        (_ATTEND,), partial(attention, "triton_interpret"), dense_attention, 640, 7, 1, 8e-3, {}
    ),
    "packed attention, triton": Link(
        (_ATTEND,), partial(packed_attention, "triton_interpret"), dense_attention, 640, 7, 1, 8e-3, {}
    ),
}
FLOAT32 = 5e-6  # the largest error in float32; plain formulations have up to 1.4e-6


def chain(link: Callable, norm: Callable, variables: dict[str, jax.Array]) -> jax.Array:
    """Convolution, norm, ReLU, the link, convolution, and a sum of products with given numbers."""
    x = conv(variables["x"], variables["before"])
    x = nn.relu(norm(x, variables["scale"], variables["bias"]))
    x = link(x, variables["kernel"]) if "kernel" in variables else link(x)
    if x.ndim == 4:
        x = conv(x, variables["after"][:, :, : x.shape[-1]])
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    upstream = np.random.default_rng(3).normal(size=wide.shape).astype(np.float32)
    return (wide * jnp.asarray(upstream)).sum()


def inputs(link: Link) -> dict[str, np.ndarray]:
    """Numbers that are the same in all dtypes; norms' scales and biases in float32 and float64."""
    rng = np.random.default_rng(0)
    found = {
        "x": rng.normal(size=(link.images, link.side, link.side, 32)),
        "before": (2 / 288) ** 0.5 * rng.normal(size=(3, 3, 32, link.channels)),
        "after": 0.05 * rng.normal(size=(1, 1, link.channels, 32)),
    }
    if link.kernel is not None:
        found["kernel"] = 0.03 * rng.normal(size=link.kernel)
    rounded = {
        name: np.asarray(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)) for name, x in found.items()
    }
    norms = {"scale": rng.uniform(0.5, 1.5, link.channels), "bias": rng.uniform(-0.3, 0.3, link.channels)}
    return rounded | {name: value.astype(np.float32) for name, value in norms.items()}


def gradients(
    loss: Callable, variables: dict[str, np.ndarray], dtype: str, options: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Of every variable, in float64; norms' scales and biases are float32 or wider."""
    with jax.enable_x64(dtype == "float64"):
        wide = jnp.promote_types(dtype, jnp.float32)
        kinds = {name: wide if name in ("scale", "bias") else dtype for name in variables}
        arrays = {name: jnp.asarray(value, kinds[name]) for name, value in variables.items()}
        found = jax.jit(jax.grad(loss), compiler_options=dict(options))(arrays)
        return {name: np.asarray(value.astype(wide), np.float64) for name, value in found.items()}


def largest_error(found: dict[str, np.ndarray], exact: dict[str, np.ndarray]) -> float:
    """The largest relative error of a gradient, in norm; of those that are not 0."""
    norms = {name: np.linalg.norm(value) for name, value in exact.items()}
    return max(np.linalg.norm(found[name] - exact[name]) / norm for name, norm in norms.items() if norm)


def our_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    return normalize(x, scale, bias, EPSILON)[0].astype(x.dtype)


@pytest.mark.parametrize("name", LINKS)
def test_a_compiled_chain_has_the_gradient_of_a_plain_one_in_float64(name):
    link, variables = LINKS[name], inputs(LINKS[name])
    exact = gradients(partial(chain, link.plain, plain_norm), variables, "float64", AS_USERS)
    ours = partial(chain, link.ours, our_norm)
    for loss, dtype, bound in (
        (ours, "float32", FLOAT32),
        (jax.checkpoint(ours), "float32", FLOAT32),
        (jax.checkpoint(ours), "bfloat16", link.bfloat16),  # kept arrays are rounded less: no case of its own
    ):
        assert largest_error(gradients(loss, variables, dtype, link.options), exact) <= bound, dtype


def hand_written(tree: ast.AST) -> Iterator[str]:
    """Names of what a module gives a derivative of its own: decorated, or wrapped."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("defjvp", "defjvps", "defvjp"):
                yield ast.unparse(node.func.value)
        elif isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Attribute) and decorator.attr in ("defjvp", "defjvps", "defvjp"):
                    yield ast.unparse(decorator.value)


def test_every_derivative_that_is_written_by_hand_stands_in_a_chain():
    """`costs.flops` only counts: its rule is the count of the kernels' own."""
    found = set()
    for file in (*ROOT.glob("ccnet_jax/**/*.py"), *ROOT.glob("kernels/**/*.py")):
        names = hand_written(ast.parse(file.read_text()))
        found |= {(str(file.relative_to(ROOT)), name) for name in names}
    tried = {rule for link in LINKS.values() for rule in link.rules}
    assert found - {("ccnet_jax/tools/costs/flops.py", "_attention")} == tried
