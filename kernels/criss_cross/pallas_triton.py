"""Criss-cross attention as fused Pallas Triton kernels, for NVIDIA GPUs from compute capability 8.0.

Every column and every row of the image (a *line*) is a small self-attention of its own. Two passes go
over the image, columns first. Each program owns one line or a block of one, so no attention map is
written to memory and no atomics are needed:

    forward    columns: their softmax times V, and its log-sum-exp
               rows:    the same, merged with the columns' result by log-sum-exp, in place
    backward   P again from the joint log-sum-exp, then  dV = P^T dO,  dS = P * (dO V^T - delta),
               dQ = dS K,  dK = dS^T Q,  with delta = rowsum(dO * O); rows add onto the columns' result

Long lines are processed in blocks and channels in chunks; the part of a block beyond the end is masked.
A column is read with a stride: nothing is transposed in memory. All sums are float32.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import triton as plgpu
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from . import device
from .backend import Backend
from .blocks import Blocks, choose_blocks, power_of_two
from .factor import Factor

Ref: TypeAlias = Any  # device memory, as Pallas hands it to a kernel
Index: TypeAlias = Any  # a whole number, or one that the kernel computes

_LOG2E = math.log2(math.e)  # the hardware raises 2 to a power, not e
_NEGATIVE_INFINITY = float("-inf")


class _Channels(NamedTuple):
    """Some channels of a [B, H, W, channels] array in device memory."""

    ref: Ref
    first: int
    number: int


@dataclasses.dataclass(frozen=True)
class _Line:
    """Which column (or row) of which image, and how many pixels it has."""

    batch: Index
    index: Index
    column: bool
    length: int

    def _place(self, pixels: jax.Array) -> tuple[Index, ...]:
        return (self.batch, pixels, self.index) if self.column else (self.batch, self.index, pixels)

    def exists(self, start: Index, pixels: int) -> jax.Array:
        """[pixels]: false beyond the line's end."""
        return start + jnp.arange(pixels) < self.length

    def _tile(
        self, x: _Channels, start: Index, pixels: int, channel: Index, chunk: int
    ) -> tuple[Ref, jax.Array]:
        at, channels = start + jnp.arange(pixels)[:, None], channel + jnp.arange(chunk)[None, :]
        exists = at < self.length
        if x.number % chunk:
            exists &= channels < x.number
        return x.ref.at[*self._place(at), x.first + channels], exists

    def load(self, x: _Channels, start: Index, pixels: int, channel: Index, chunk: int) -> jax.Array:
        """[pixels, chunk], zero beyond the line and beyond the channels."""
        tile, exists = self._tile(x, start, pixels, channel, chunk)
        return plgpu.load(tile, mask=exists, other=0)

    def store(self, x: _Channels, start: Index, channel: Index, tile: jax.Array) -> None:
        """tile [pixels, chunk]; the part beyond the line or the channels is not stored."""
        where, exists = self._tile(x, start, tile.shape[0], channel, tile.shape[1])
        plgpu.store(where, tile.astype(x.ref.dtype), mask=exists)

    def load_scalars(self, ref: Ref, start: Index, pixels: int) -> jax.Array:
        """[pixels] of a [B, H, W] array."""
        tile = ref.at[*self._place(start + jnp.arange(pixels))]
        return plgpu.load(tile, mask=self.exists(start, pixels), other=0)

    def store_scalars(self, ref: Ref, start: Index, x: jax.Array) -> None:
        """x [pixels]."""
        tile = ref.at[*self._place(start + jnp.arange(x.shape[0]))]
        plgpu.store(tile, x, mask=self.exists(start, x.shape[0]))


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """The constants of one compiled pass."""

    column: bool
    length: int  # of a line
    key_channels: int  # D
    value_channels: int  # C
    images: int
    blocks: Blocks
    interpret: bool

    def line(self) -> _Line:
        """This program's line. The row pass takes the last image first: it is still in the L2 cache."""
        image = pl.program_id(2)
        image = image if self.column else self.images - 1 - image
        return _Line(image, pl.program_id(1), self.column, self.length)

    def split(self, refs: tuple[Ref, ...]) -> tuple[_Channels, _Channels, _Channels]:
        """Query, key and value: three arrays, or one that holds their channels in this order."""
        d, c = self.key_channels, self.value_channels
        if len(refs) == 3:
            return _Channels(refs[0], 0, d), _Channels(refs[1], 0, d), _Channels(refs[2], 0, c)
        return _Channels(refs[0], 0, d), _Channels(refs[0], d, d), _Channels(refs[0], 2 * d, c)

    def factor(self, x: jax.Array) -> Factor:
        """x for a product."""
        # Not every CPU multiplies 16-bit matrices; in float32 the interpreter's products are exact.
        return Factor((x.astype(jnp.float32),)) if self.interpret else Factor.of(x)

    @property
    def key_chunk(self) -> int:
        return min(power_of_two(self.key_channels), 128)

    @property
    def value_chunk(self) -> int:
        return min(power_of_two(self.value_channels), self.blocks.channels)

    def load_block(self, line: _Line, x: _Channels, start: Index, pixels: int) -> list[Factor]:
        """All channels of a block of query or key, in chunks [pixels, key_chunk]."""
        chunk = self.key_chunk
        return [
            self.factor(line.load(x, start, pixels, d, chunk)) for d in range(0, self.key_channels, chunk)
        ]

    def load_values(self, line: _Line, x: _Channels, start: Index, pixels: int, channel: Index) -> Factor:
        """[pixels, value_chunk] of the values, or of the gradient of what they became."""
        return self.factor(line.load(x, start, pixels, channel, self.value_chunk))

    def energies(
        self,
        line: _Line,
        first_query: Index,
        queries: list[Factor],
        first_key: Index,
        keys: list[Factor],
        transposed: bool = False,
    ) -> jax.Array:
        """[queries, keys], times log2(e), of the blocks that start at pixels `first_query` and `first_key`.

        It is -inf for a key beyond the line, and for a pixel's own key in its column: the row counts that.
        A query beyond the line has energies without a meaning. If `transposed`, [keys, queries].
        """
        rows, columns = (keys, queries) if transposed else (queries, keys)
        product = sum(x.times(y.T) for x, y in zip(rows, columns, strict=True)) * _LOG2E
        along_queries, along_keys = (1, 0) if transposed else (0, 1)
        seen = jnp.expand_dims(line.exists(first_key, self.blocks.key), along_queries)
        if self.column:
            query = jnp.expand_dims(first_query + jnp.arange(self.blocks.query), along_keys)
            seen &= query != jnp.expand_dims(first_key + jnp.arange(self.blocks.key), along_queries)
        return jnp.where(seen, product, _NEGATIVE_INFINITY)

    def over_values(self, body: Callable[[Any, Any], Any], carry: Any) -> Any:
        """body(first channel, carry) for every chunk of the value channels."""
        chunk = self.value_chunk
        return jax.lax.fori_loop(
            0, pl.cdiv(self.value_channels, chunk), lambda n, x: body(n * chunk, x), carry
        )

    def over_line(self, block: int, body: Callable[[Any, Any], Any], carry: Any) -> Any:
        """body(first pixel, carry) for every block of the line; of one block, without a loop."""
        if self.length <= block:
            return body(0, carry)
        return jax.lax.fori_loop(0, pl.cdiv(self.length, block), lambda n, x: body(n * block, x), carry)


def _forward_kernel(*refs: Ref, kernel: _Kernel, arrays: int) -> None:
    """One block of queries of one line: its softmax over the line, times V."""
    query, key, value = kernel.split(refs[:arrays])
    out, lse = refs[-2:]
    line, blocks = kernel.line(), kernel.blocks
    out = _Channels(out, 0, kernel.value_channels)
    start = pl.program_id(0) * blocks.query
    queries = kernel.load_block(line, query, start, blocks.query)

    def energies_from(first: Index) -> jax.Array:
        keys = kernel.load_block(line, key, first, blocks.key)
        return kernel.energies(line, start, queries, first, keys)

    def join(carry: tuple[jax.Array, jax.Array], energies: jax.Array) -> tuple[jax.Array, jax.Array]:
        maximum, total = carry
        larger = jnp.maximum(maximum, energies.max(1))
        shift = _finite(larger)
        total = total * jnp.exp2(maximum - shift) + jnp.exp2(energies - shift[:, None]).sum(1)
        return larger, total

    nothing = jnp.full(blocks.query, _NEGATIVE_INFINITY), jnp.zeros(blocks.query)
    whole_line = kernel.length <= blocks.key
    if whole_line:
        energies = energies_from(0)
        maximum, total = join(nothing, energies)
    else:
        maximum, total = kernel.over_line(blocks.key, lambda first, x: join(x, energies_from(first)), nothing)
    joint = _finite(maximum) + jnp.log2(total)  # -inf for a column of one pixel
    if not kernel.column:
        earlier = line.load_scalars(refs[arrays], start, blocks.query) * _LOG2E
        larger = jnp.maximum(earlier, joint)
        joint = larger + jnp.log2(jnp.exp2(earlier - larger) + jnp.exp2(joint - larger))
        fraction = jnp.exp2(earlier - joint)[:, None]
        earlier_out = _Channels(refs[arrays + 1], 0, kernel.value_channels)
    line.store_scalars(lse, start, joint / _LOG2E)
    shift = _finite(joint)[:, None]

    def weights(energies: jax.Array) -> Factor:
        return kernel.factor(jnp.exp2(energies - shift).astype(value.ref.dtype))

    whole = weights(energies) if whole_line else None

    def chunk(channel: Index, _: None) -> None:
        def attend(first: Index, total: jax.Array) -> jax.Array:
            a = weights(energies_from(first)) if whole is None else whole
            return a.times(kernel.load_values(line, value, first, blocks.key, channel), total)

        total = jnp.zeros((blocks.query, kernel.value_chunk))
        total = kernel.over_line(blocks.key, attend, total)
        if not kernel.column:
            total += fraction * line.load(earlier_out, start, blocks.query, channel, kernel.value_chunk)
        line.store(out, start, channel, total)

    kernel.over_values(chunk, None)


def _finite(x: jax.Array) -> jax.Array:
    """x with 0 for -inf, so that -inf - x stays -inf."""
    return jnp.where(x == _NEGATIVE_INFINITY, 0.0, x)


@dataclasses.dataclass(frozen=True)
class _Backward:
    """What every backward kernel reads and writes."""

    kernel: _Kernel
    line: _Line
    query: _Channels
    key: _Channels
    value: _Channels
    d_out: _Channels
    lse: Ref
    delta: Ref
    d_query: _Channels
    d_key: _Channels
    d_value: _Channels
    earlier: tuple[_Channels, _Channels, _Channels] | None  # what the columns wrote, for rows to add to
    transposed: bool  # P, dP and dS are [keys, queries], else [queries, keys]

    @classmethod
    def of(
        cls, refs: tuple[Ref, ...], kernel: _Kernel, arrays: int, add: bool, transposed: bool = False
    ) -> "_Backward":
        """refs: query, key, value in `arrays` arrays, dO, lse, delta, [earlier gradients,] gradients."""
        inputs, (d_out, lse, delta), outputs = refs[:arrays], refs[arrays : arrays + 3], refs[-arrays:]
        return cls(
            kernel,
            kernel.line(),
            *kernel.split(inputs),
            _Channels(d_out, 0, kernel.value_channels),
            lse,
            delta,
            *kernel.split(outputs),
            kernel.split(refs[arrays + 3 : -arrays]) if add else None,
            transposed,
        )

    def keys(self, first: Index) -> list[Factor]:
        return self.kernel.load_block(self.line, self.key, first, self.kernel.blocks.key)

    def queries(self, first: Index) -> list[Factor]:
        return self.kernel.load_block(self.line, self.query, first, self.kernel.blocks.query)

    def upstream(self, first: Index, channel: Index) -> Factor:
        return self.kernel.load_values(self.line, self.d_out, first, self.kernel.blocks.query, channel)

    def weights(
        self, first_query: Index, queries: list[Factor], first_key: Index, keys: list[Factor]
    ) -> jax.Array:
        """P of the blocks that start at pixels `first_query` and `first_key`.

        A query beyond the line does no harm: its dO, delta and channels are loaded as 0.
        """
        energies = self.kernel.energies(self.line, first_query, queries, first_key, keys, self.transposed)
        # No weight is above 1; the rounding of large energies must not say so.
        return jnp.exp2(jnp.minimum(energies - self.of_queries(self.lse, first_query) * _LOG2E, 0.0))

    def of_queries(self, ref: Ref, first: Index) -> jax.Array:
        """lse or delta of a block of queries, to broadcast along the keys."""
        scalars = self.line.load_scalars(ref, first, self.kernel.blocks.query)
        return jnp.expand_dims(scalars, 0 if self.transposed else 1)

    def d_weights(
        self, first_query: Index, first_key: Index, and_then: Callable[..., None] | None = None
    ) -> jax.Array:
        """dP = dO V^T; calls and_then(channel, chunk of dO) for each chunk that it has loaded."""
        kernel, blocks = self.kernel, self.kernel.blocks

        def chunk(channel: Index, total: jax.Array) -> jax.Array:
            upstream = self.upstream(first_query, channel)
            if and_then:
                and_then(channel, upstream)
            value = kernel.load_values(self.line, self.value, first_key, blocks.key, channel)
            return value.times(upstream.T, total) if self.transposed else upstream.times(value.T, total)

        shape = (blocks.key, blocks.query) if self.transposed else (blocks.query, blocks.key)
        return kernel.over_values(chunk, jnp.zeros(shape))

    def d_energies(self, first_query: Index, weights: jax.Array, d_weights: jax.Array) -> Factor:
        """dS = P * (dP - delta)."""
        return self.factor(weights * (d_weights - self.of_queries(self.delta, first_query)))

    def factor(self, x: jax.Array) -> Factor:
        """Of P and of dS, which are rounded to the inputs' dtype."""
        return self.kernel.factor(x.astype(self.query.ref.dtype))

    def write(self, which: int, start: Index, channel: Index, tile: jax.Array) -> None:
        """Store gradient number `which` of (query, key, value); add what the column pass wrote, if it did."""
        if self.earlier:
            tile += self.line.load(self.earlier[which], start, tile.shape[0], channel, tile.shape[1])
        self.line.store((self.d_query, self.d_key, self.d_value)[which], start, channel, tile)

    def write_keys(self, which: int, start: Index, tiles: list[jax.Array]) -> None:
        for n, tile in enumerate(tiles):
            self.write(which, start, n * self.kernel.key_chunk, tile)


def _backward_line_kernel(*refs: Ref, kernel: _Kernel, arrays: int, add: bool, values: bool) -> None:
    """dQ and dK of a line that fits in one block, and with `values` also dV: every input is read once."""
    this = _Backward.of(refs, kernel, arrays, add)
    if values:
        other = dataclasses.replace(this, transposed=True)
        transposed = this.factor(other.weights(0, this.queries(0), 0, this.keys(0)))
        d_weights = this.d_weights(
            0, 0, lambda channel, upstream: this.write(2, 0, channel, transposed.times(upstream))
        )
    else:
        d_weights = this.d_weights(0, 0)
    # P is computed again: to keep it during the loop would take too many registers.
    keys, queries = this.keys(0), this.queries(0)
    d_energies = this.d_energies(0, this.weights(0, queries, 0, keys), d_weights)
    this.write_keys(0, 0, [d_energies.times(k) for k in keys])
    this.write_keys(1, 0, [d_energies.T.times(q) for q in queries])


def _backward_values_kernel(*refs: Ref, kernel: _Kernel, arrays: int, add: bool) -> None:
    """dV of one block of pixels, walking over the queries."""
    this = _Backward.of(refs, kernel, arrays, add, transposed=True)
    start = pl.program_id(0) * kernel.blocks.key
    keys = this.keys(start)

    def transposed(first: Index) -> Factor:
        return this.factor(this.weights(first, this.queries(first), start, keys))

    whole = transposed(0) if kernel.length <= kernel.blocks.query else None

    def chunk(channel: Index, _: None) -> None:
        def d_value(first: Index, total: jax.Array) -> jax.Array:
            weights = transposed(first) if whole is None else whole
            return weights.times(this.upstream(first, channel), total)

        zeros = jnp.zeros((kernel.blocks.key, kernel.value_chunk))
        this.write(2, start, channel, kernel.over_line(kernel.blocks.query, d_value, zeros))

    kernel.over_values(chunk, None)


def _backward_keys_kernel(*refs: Ref, kernel: _Kernel, arrays: int, add: bool) -> None:
    """dK of one block of keys of a long line, walking over the queries."""
    this = _Backward.of(refs, kernel, arrays, add, transposed=True)
    start = pl.program_id(0) * kernel.blocks.key
    keys = this.keys(start)

    def d_key(first: Index, total: list[jax.Array]) -> list[jax.Array]:
        queries = this.queries(first)
        weights = this.weights(first, queries, start, keys)
        d_energies = this.d_energies(first, weights, this.d_weights(first, start))
        return [d_energies.times(q, x) for x, q in zip(total, queries, strict=True)]

    zeros = [jnp.zeros((kernel.blocks.key, kernel.key_chunk))] * len(keys)
    this.write_keys(1, start, kernel.over_line(kernel.blocks.query, d_key, zeros))


def _backward_queries_kernel(*refs: Ref, kernel: _Kernel, arrays: int, add: bool) -> None:
    """dQ of one block of queries of a long line, walking over the keys."""
    this = _Backward.of(refs, kernel, arrays, add)
    start = pl.program_id(0) * kernel.blocks.query
    queries = this.queries(start)

    def d_query(first: Index, total: list[jax.Array]) -> list[jax.Array]:
        keys = this.keys(first)
        weights = this.weights(start, queries, first, keys)
        d_energies = this.d_energies(start, weights, this.d_weights(start, first))
        return [d_energies.times(k, x) for x, k in zip(total, keys, strict=True)]

    zeros = [jnp.zeros((kernel.blocks.query, kernel.key_chunk))] * len(queries)
    this.write_keys(0, start, kernel.over_line(kernel.blocks.key, d_query, zeros))


def _passes(
    direction: str, arrays: tuple[jax.Array, ...], key_channels: int, blocks: Blocks | None, interpret: bool
) -> Iterator[tuple[_Kernel, Callable[..., tuple[jax.Array, ...]]]]:
    """The pass over columns, then that over rows; each with a launcher for its kernels."""
    batch, height, width, _ = arrays[0].shape
    for column in (True, False):
        length, lines = (height, width) if column else (width, height)
        cut = blocks or choose_blocks(direction, length, key_channels, arrays[0].dtype, device.generation())
        values = _value_channels(arrays, key_channels)
        kernel = _Kernel(column, length, key_channels, values, batch, cut, interpret)

        def launch(
            body: Callable[..., None],
            block: int,
            inputs: tuple[jax.Array, ...],
            earlier: tuple[jax.Array, ...],
            results: tuple[jax.ShapeDtypeStruct, ...],
            kernel: _Kernel = kernel,
            lines: int = lines,
            **static: Any,
        ) -> tuple[jax.Array, ...]:
            """Run body for each block of each line of each image; the results overwrite `earlier`."""
            name = f"criss_cross{body.__name__.removesuffix('_kernel')}"
            body = functools.partial(body, kernel=kernel, arrays=len(arrays), **static)
            return pl.pallas_call(
                body,
                out_shape=results,
                grid=(pl.cdiv(kernel.length, block), lines, batch),  # the first runs fastest
                input_output_aliases={len(inputs) + n: n for n in range(len(earlier))},
                compiler_params=plgpu.CompilerParams(
                    num_warps=kernel.blocks.warps, num_stages=kernel.blocks.stages
                ),
                interpret=interpret,
                name=name + ("_columns" if kernel.column else "_rows"),
            )(*inputs, *earlier)

        yield kernel, launch


def _value_channels(arrays: tuple[jax.Array, ...], key_channels: int) -> int:
    return arrays[-1].shape[-1] - (2 * key_channels if len(arrays) == 1 else 0)


def _like(x: jax.Array, channels: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    varying = jax.typeof(x).manual_axis_type  # over which devices, inside jax.shard_map
    return jax.ShapeDtypeStruct((*x.shape[:3], *channels), dtype, manual_axis_type=varying)


def forward_passes(
    arrays: tuple[jax.Array, ...], key_channels: int, blocks: Blocks | None = None, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """out [B, H, W, C] and the joint log-sum-exp [B, H, W]; arrays as in `attend`."""
    like, dtype = arrays[0], arrays[0].dtype
    results = (_like(like, (_value_channels(arrays, key_channels),), dtype), _like(like, (), jnp.float32))
    found: tuple[jax.Array, ...] = ()
    for kernel, launch in _passes("forward", arrays, key_channels, blocks, interpret):
        # The row pass overwrites the `out` of the column pass: the threads that read a tile also write it.
        # The log-sum-exp is a new array, because several threads read the same number of the old one.
        earlier_out, earlier_lse = tuple(found[:1]), tuple(found[1:])
        found = launch(_forward_kernel, kernel.blocks.query, (*arrays, *earlier_lse), earlier_out, results)
    out, lse = found
    return out, lse


def backward_passes(
    arrays: tuple[jax.Array, ...],
    key_channels: int,
    d_out: jax.Array,
    lse: jax.Array,
    delta: jax.Array,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, ...]:
    """Gradients of `arrays`; delta [B, H, W] is rowsum(dO * O)."""
    inputs = (*arrays, d_out, lse, delta)
    results = tuple(_like(x, x.shape[3:], x.dtype) for x in arrays)
    found: tuple[jax.Array, ...] = ()
    for kernel, launch in _passes("backward", arrays, key_channels, blocks, interpret):
        cut, add = kernel.blocks, not kernel.column
        whole_line = kernel.length <= min(cut.query, cut.key)
        together = whole_line and arrays[0].dtype != jnp.float32  # float32 has not the registers for all
        if not together:
            found = launch(_backward_values_kernel, cut.key, inputs, found, results, add=add)
        if whole_line:
            found = launch(_backward_line_kernel, cut.key, inputs, found, results, add=add, values=together)
        else:
            found = launch(_backward_keys_kernel, cut.key, inputs, found, results, add=add)
            found = launch(_backward_queries_kernel, cut.query, inputs, found, results, add=add)
    return found


def _image_by_image(function: Callable[..., Any], rule: str) -> Callable[..., Any]:
    """`function` of arrays [B, ...] that treats every image alone, made to work under vmap and sharding.

    vmap's axis becomes part of the batch. A batch that is split over devices stays split: each device
    runs the kernels on its own images. An array that is split along another axis is gathered first.
    """
    split = custom_partitioning(function)

    def partition(mesh: Any, arguments: Any, results: Any) -> Any:
        batch = NamedSharding(mesh, PartitionSpec(*arguments[0].sharding.spec[:1]))
        return mesh, function, jax.tree.map(lambda _: batch, results), tuple(batch for _ in arguments)

    whole = tuple(dict.fromkeys(letter for letter in rule if letter in "hwdcp"))
    split.def_partition(partition, sharding_rule=rule, need_replication_factors=whole)

    @custom_vmap
    def mapped(*arguments: jax.Array) -> Any:
        by_hand = AxisType.Manual in jax.typeof(arguments[0]).sharding.mesh.axis_types
        return (function if by_hand else split)(*arguments)  # jax.shard_map has split the arrays already

    @mapped.def_vmap
    def fold(size: int, batched: list[bool], *arguments: jax.Array) -> tuple[Any, Any]:
        all_batched = [
            x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_batched in zip(arguments, batched, strict=True)
        ]
        results = mapped(*(x.reshape(-1, *x.shape[2:]) for x in all_batched))
        results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    def call(*arguments: jax.Array) -> Any:
        sharding = jax.typeof(arguments[0]).sharding
        if AxisType.Explicit not in sharding.mesh.axis_types:
            return mapped(*arguments)
        # On a mesh with explicit sharding axes the partitioner does not split: jax.shard_map has to.
        batch = PartitionSpec(*sharding.spec[:1])
        here = jax.shard_map(mapped, mesh=sharding.mesh, in_specs=batch, out_specs=batch, check_vma=False)
        return here(*arguments)

    return call


_SHAPES = {1: "b h w p", 3: "b h w d, b h w d, b h w c"}  # of the arrays, packed or not


@functools.cache
def _forward(arrays: int, key_channels: int, interpret: bool) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return _image_by_image(
        lambda *x: forward_passes(x, key_channels, interpret=interpret),
        f"{_SHAPES[arrays]} -> b h w c, b h w",
    )


@functools.cache
def _backward(arrays: int, key_channels: int, interpret: bool) -> Callable[..., tuple[jax.Array, ...]]:
    return _image_by_image(
        lambda *x: backward_passes(x[:arrays], key_channels, x[-3], x[-2], x[-1], interpret=interpret),
        f"{_SHAPES[arrays]}, b h w c, b h w, b h w -> {_SHAPES[arrays]}",
    )


def attend(
    arrays: tuple[jax.Array, ...], key_channels: int, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Criss-cross attention and its joint log-sum-exp.

    Args:
      arrays: query, key [B, H, W, D] and value [B, H, W, C]; or one array [B, H, W, D + D + C] that
        holds all three. The kernels read it, and write its gradient, without slicing it.
      key_channels: D.
      interpret: run the kernels in Pallas's interpreter, on any device: exact, and slow.

    Returns:
      out [B, H, W, C] in the arrays' dtype, and log-sum-exp [B, H, W] in float32.
    """
    return _attend(_placed_alike(arrays), key_channels, interpret)


def _placed_alike(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The arrays with one common placement; from the change JAX derives where it must sum the gradients.

    Inside `jax.shard_map` every array becomes varying over the axes over which one of them varies. On a
    mesh with explicit sharding axes every array is split like the first, along the batch only.
    """
    axes = frozenset().union(*(jax.typeof(x).manual_axis_type.varying for x in arrays))
    missing = [tuple(axes - jax.typeof(x).manual_axis_type.varying) for x in arrays]
    arrays = tuple(
        jax.lax.pcast(x, m, to="varying") if m else x for x, m in zip(arrays, missing, strict=True)
    )
    sharding = jax.typeof(arrays[0]).sharding
    if AxisType.Explicit in sharding.mesh.axis_types:
        batch = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
        arrays = tuple(jax.sharding.reshard(x, batch) for x in arrays)
    return arrays


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(arrays: tuple[jax.Array, ...], key_channels: int, interpret: bool) -> tuple[jax.Array, jax.Array]:
    return _forward(len(arrays), key_channels, interpret)(*arrays)


def _attend_forward(arrays: tuple[jax.Array, ...], key_channels: int, interpret: bool) -> tuple[Any, Any]:
    out, lse = _attend(arrays, key_channels, interpret)
    # The names let a policy of `jax.checkpoint` keep these two and compute the rest again.
    out, lse = checkpoint_name(out, "criss_cross"), checkpoint_name(lse, "criss_cross")
    return (out, lse), (arrays, out, lse)


def _attend_backward(key_channels: int, interpret: bool, residuals: Any, gradients: Any) -> Any:
    arrays, out, lse = residuals
    d_out, d_lse = gradients
    # d lse / d energy is the weight itself: its gradient joins delta, with the other sign.
    delta = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1) - d_lse
    return (tuple(_backward(len(arrays), key_channels, interpret)(*arrays, d_out, lse, delta)),)


_attend.defvjp(_attend_forward, _attend_backward)


def _unavailable() -> str | None:
    instead = device.no_modern_nvidia_gpu()
    return instead and f"needs an NVIDIA GPU of compute capability 8.0 or newer, and this is {instead}"


BACKEND = Backend(attend, _unavailable)
INTERPRETED = Backend(functools.partial(attend, interpret=True), automatic=False)
