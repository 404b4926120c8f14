"""The state of training, what is minimized, and one step."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Num, PRNGKeyArray, PyTree, Shaped

from ccnet_jax.common.devices import compiler_options
from ccnet_jax.common.kernels import device
from ccnet_jax.training.means import Mean

Batch = dict[str, Shaped[Array, "B ..."]]  # "image", uint8 [B, H, W, 3], and what the loss reads beside it
Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[["State", Batch], tuple["State", Metrics]]
GUARDED = {  # the metrics that have to be finite, and what to call them
    "loss": "the loss",
    "gradient_norm": "the gradient's norm",
    "parameter_norm": "the new weights' norm",
}
Divisors = dict[str, Num[Array, ""]]  # what the sum of each mean is divided by


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """What training minimizes: a weighted sum of means over a batch.

    Attributes:
      means: (params, batch_stats, batch, key) -> ({name: mean}, the new batch_stats).
      weights: {name: the mean's weight in the sum}.
    """

    means: Callable[..., tuple[dict[str, Mean], PyTree]]
    weights: Mapping[str, float]

    def __call__(
        self,
        params: PyTree,
        batch_stats: PyTree,
        batch: Batch,
        key: PRNGKeyArray,
        divisors: Divisors | None = None,
    ) -> tuple[Float[Array, ""], tuple[Metrics, PyTree]]:
        """-> loss [], ({"loss", and each mean by its name}, the new batch_stats).

        With the `divisors` of a larger batch, loss and metrics are what this part of it adds to the whole's.
        """
        means, batch_stats = self.means(params, batch_stats, batch, key)
        values = {
            name: mean.value if divisors is None else mean.over(divisors[name])
            for name, mean in means.items()
        }
        loss = sum((self.weights[name] * value for name, value in values.items()), jnp.float32(0))
        return loss, ({"loss": loss, **values}, batch_stats)

    def divisors(self, params: PyTree, batch_stats: PyTree, batch: Batch, key: PRNGKeyArray) -> Divisors:
        """What the sums of a batch are divided by.

        In a program this costs as much of the network as they depend on, often nothing.
        """
        return {name: mean.divisor for name, mean in self.means(params, batch_stats, batch, key)[0].items()}


@flax.struct.dataclass
class State:
    """All that training changes: step int32 [], {"params", "batch_stats"}, the optimizer's buffers."""

    step: Any  # an array, or what stands for it where JAX traces, lowers or restores
    variables: PyTree
    optimizer: PyTree


def initial_state(network: nn.Module, optimizer: optax.GradientTransformation, seed: int) -> State:
    """Random weights (gamma 0), running mean 0 and variance 1, empty buffers."""
    variables = network.init(jax.random.key(seed), jnp.zeros((1, 64, 64, 3)))
    return State(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))


def make_initial_state(
    network: nn.Module, optimizer: optax.GradientTransformation, seed: int, sharding: Sharding
) -> Callable[[], State]:
    """() -> `initial_state` on the devices of `sharding`, compiled."""
    return jax.jit(functools.partial(initial_state, network, optimizer, seed), out_shardings=sharding)


def split_batch(x: Shaped[Array, "B ..."], parts: int) -> Shaped[Array, "parts b ..."]:
    """[B, ...] -> [parts, B / parts, ...]; part i has the rows i, i + parts, ...

    A batch that is split over devices in runs of rows stays where it is: each device has rows of every part.

    Raises:
      ValueError: B is no multiple of `parts`.
    """
    if len(x) % parts:
        raise ValueError(f"a batch of {len(x)} cannot be split into {parts} equal parts")
    return jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0)


def is_finite(metrics: Metrics) -> Bool[Array, ""]:
    """Whether a step may be made."""
    return jnp.isfinite(jnp.stack([metrics[name] for name in GUARDED])).all()


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    seed: int,
    accumulate: int = 1,
    wrap: Callable[[TrainStep], TrainStep] = lambda step: step,
) -> TrainStep:
    """(state, batch) -> (state, metrics), compiled.

    The batch is split over the mesh. The program is written for the whole batch: its loss, gradients and
    batch statistics are those of the global batch on any number of devices. The state's buffers are reused.

    A step whose loss, gradient or result is not finite changes nothing but the number of the step: no
    state ever holds a number that is not finite.

    With `accumulate` the batch goes through the network in so many parts, one after the other. The sums of
    all parts are divided by what those of the whole batch are divided by: loss, metrics and gradients are the
    batch's, however its labels are spread over the parts. What a part has of its own are batch norm's
    statistics (each part updates the running ones), its draws (dropout, sampled anchors and regions), and in
    OHEM which pixels are hard. The divisors are computed first. They cost next to nothing where they depend
    on the labels alone; where they depend on what the network finds (OHEM over labelled pixels, regions of
    instances), each part goes through the network once more, forwards.

    Args:
      loss: what is minimized.
      optimizer: turns gradients into updates of the parameters.
      seed: of what is drawn in a step.
      accumulate: number of parts of a batch.
      wrap: takes the function of the step before it is compiled, and gives the one that is.

    Raises:
      ValueError: (when it is called) the batch cannot be split into so many parts.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def gradients_of(
        params: PyTree, batch_stats: PyTree, batch: Batch, key: PRNGKeyArray, *divisors: Divisors
    ) -> tuple[PyTree, Metrics, PyTree]:
        """-> gradients, metrics, the new batch_stats."""
        (_, (metrics, batch_stats)), gradients = gradient(params, batch_stats, batch, key, *divisors)
        return gradients, metrics, batch_stats

    def accumulated(
        params: PyTree, batch_stats: PyTree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[PyTree, Metrics, PyTree]:
        """`gradients_of` the parts of a batch, added up."""
        parts = jax.tree.map(functools.partial(split_batch, parts=accumulate), batch)
        parts = parts, jax.random.split(key, accumulate)
        unroll = device.kind()[0] == "cpu"  # in a loop, XLA's convolutions are many times slower on a CPU

        def divisors_of_part(_: None, part: tuple[Batch, PRNGKeyArray]) -> tuple[None, Divisors]:
            return None, loss.divisors(params, batch_stats, *part)

        _, divisors = jax.lax.scan(divisors_of_part, None, parts, unroll=unroll)
        divisors = jax.tree.map(functools.partial(jnp.sum, axis=0), divisors)

        def add_part(total: PyTree, part: tuple[Batch, PRNGKeyArray]) -> tuple[PyTree, Metrics]:
            sums, batch_stats = total
            gradients, metrics, batch_stats = gradients_of(params, batch_stats, *part, divisors)
            return (jax.tree.map(jnp.add, sums, gradients), batch_stats), metrics

        nothing = jax.tree.map(jnp.zeros_like, params)
        (gradients, batch_stats), metrics = jax.lax.scan(
            add_part, (nothing, batch_stats), parts, unroll=unroll
        )
        return gradients, jax.tree.map(functools.partial(jnp.sum, axis=0), metrics), batch_stats

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        params = state.variables["params"]
        of_batch = gradients_of if accumulate == 1 else accumulated
        gradients, metrics, batch_stats = of_batch(params, state.variables["batch_stats"], batch, key)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, buffers = optimizer.update(gradients, state.optimizer, params)
        params = optax.apply_updates(params, updates)
        metrics["parameter_norm"] = optax.tree.norm(params)
        new = {"params": params, "batch_stats": batch_stats}, buffers
        old = state.variables, state.optimizer
        variables, buffers = jax.tree.map(functools.partial(jnp.where, is_finite(metrics)), new, old)
        return State(state.step + 1, variables, buffers), metrics

    return jax.jit(wrap(train_step), donate_argnums=0, compiler_options=compiler_options())


def planned_bytes(train_step: Any, state: State, batch: Batch) -> int:
    """The memory of each device that XLA plans for a step. Looks at shapes only; compiles, or loads it."""

    def like(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    plan = train_step.lower(*jax.tree.map(like, (state, batch))).compile().memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held + plan.temp_size_in_bytes
