"""How the Triton kernels divide their work: a table by GPU generation and size, and a rule for the rest."""

import dataclasses
import json
import pathlib
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a kernel divides its work; powers of two, the first three at least 16.

    Attributes:
      query: pixels of a line whose queries are taken at once.
      key: pixels of a line whose keys are taken at once.
      channels: value channels taken at once.
      warps: groups of 32 threads that run one program.
      stages: loads in flight while earlier ones are computed with.
    """

    query: int
    key: int
    channels: int
    warps: int
    stages: int


# (generation, "forward" or "backward", bytes a number, longest line) -> blocks. A row is for lines of that
# length and down to half of it; `default_blocks` decides where there is none.
# `python -m kernels.bench.tune` measures candidates and prints such rows.
Key = tuple[str, str, int, int]
TABLE: dict[Key, Blocks] = {
    ("hopper", "forward", 2, 128): Blocks(64, 128, 64, 4, 3),  # H200: 137 us, default 143 us
    ("hopper", "forward", 4, 128): Blocks(64, 128, 64, 4, 3),  # H200: 511 us, default 584 us
    ("hopper", "backward", 4, 128): Blocks(128, 128, 64, 8, 3),  # H200: 1491 us, default 1664 us
}


def use_tuned(path: pathlib.Path) -> None:
    """Put the rows of a file that `tune --output` wrote into `TABLE`, for this process."""
    rows = {key_of(row): Blocks(*row["blocks"]) for row in json.loads(path.read_text())["rows"]}
    joined = sorted((TABLE | rows).items(), key=lambda item: item[0])
    TABLE.clear()
    TABLE.update(joined)


def table_rows() -> list[list[Any]]:
    """`TABLE` for a JSON file: each key's four values and the five of its blocks."""
    return [[*key, *dataclasses.astuple(blocks)] for key, blocks in TABLE.items()]


def key_of(row: dict[str, Any]) -> Key:
    """The key of a row of such a file."""
    return row["generation"], row["direction"], row["bytes"], row["longest"]


def choose_blocks(
    direction: str, length: int, key_channels: int, dtype: jnp.dtype, generation: str
) -> Blocks:
    """Blocks for lines of `length` pixels, from `TABLE` or else by `default_blocks`.

    Args:
      direction: "forward" or "backward".
      length: pixels of a line.
      key_channels: channels of query and key, D.
      dtype: of query, key and value.
      generation: what `device.generation` says.
    """
    bytes_ = jnp.dtype(dtype).itemsize
    # A block of query or key holds all of D: what the table and the rule were made for would not fit.
    if key_channels * bytes_ > 256:
        block = min(power_of_two(length), 32)
        return Blocks(block, block, 64, 4, 1)
    tuned = TABLE.get((generation, direction, bytes_, power_of_two(length)))
    return tuned or default_blocks(direction, length, dtype, generation)


def default_blocks(direction: str, length: int, dtype: jnp.dtype, generation: str) -> Blocks:
    """Blocks that compile with few spilled registers for an H200 and an A100 at D = 64, C = 512, or none.

    A line of up to 128 pixels is one block: its weights are computed once and its inputs are read once. An
    A100 has not the registers for that in float32, nor in the backward pass.
    """
    whole = power_of_two(length)
    wide = generation == "hopper"
    if jnp.dtype(dtype).itemsize == 4:
        if not wide:
            return Blocks(min(whole, 32), min(whole, 32), 64, 8, 1)
        if whole <= 128:
            return Blocks(whole, whole, 64, 4 if whole == 64 else 8, 1)
        return Blocks(128, 128, 64, 8, 1) if direction == "forward" else Blocks(64, 64, 32, 8, 1)
    if direction == "forward":
        if whole <= 128:
            return Blocks(whole, whole, 64, 8 if whole == 128 else 4, 3)
        return Blocks(64, 256, 64, 8, 3) if whole == 256 and wide else Blocks(128, 128, 64, 8, 2)
    if whole <= (128 if wide else 64):
        if length == 128:  # with 64 channels JAX 0.10's compiler spills, of all lengths, here
            return Blocks(128, 128, 32, 8, 3)
        if whole == 128:  # H200: 303 us for 8x97x97, and 368 us with two stages
            return Blocks(whole, whole, 64, 8, 3)
        return Blocks(whole, whole, 64, 4, 2)
    return Blocks(64, 128, 128, 8, 2) if wide else Blocks(32, 64, 128, 4, 2)


def power_of_two(n: int) -> int:
    """The smallest power of two, from 16, that is not below n."""
    return max(16, 1 << (n - 1).bit_length())
