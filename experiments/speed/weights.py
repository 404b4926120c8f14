"""Random weights of a network, for JAX and for PyTorch: two files of one set of numbers.

    python -m experiments.speed.weights FOLDER '{"task": "training", "depth": 50, ...}'

gamma is 1/2, so that attention takes part. Running statistics are those of random images: with the initial
0 and 1 the activations of a deep network would grow from block to block. Residual branches are damped, as in
trained networks: otherwise every block would enlarge rounding, and logits say little. Runs on the CPU.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from ccnet_jax.models.batch_norm import BatchNorm
from ccnet_jax.models.config import ModelConfig, build_network
from ccnet_jax.weights.naming import Naming
from ccnet_jax.weights.values import torch_tensors
from experiments.speed import cases
from experiments.speed.cases import Case
from kernels.whole_file import whole_file

DAMPING = 0.2


def model_config(case: Case) -> ModelConfig:
    """The settings of the case's network."""
    return ModelConfig(depth=case.depth, width=case.channels)


def random_variables(case: Case) -> dict[str, Any]:
    """{"params", "batch_stats"}, float32."""
    network = build_network(model_config(case), cases.CLASSES)
    images = cases.images(case._replace(batch=2, height=128, width=128))
    variables = jax.jit(network.init)(jax.random.key(0), images[:, :64, :64])
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.full_like(x, 0.5) if path[-1].key == "gamma" else x, variables["params"]
    )
    params["backbone"] = {name: damp(part) for name, part in params["backbone"].items()}

    @jax.jit
    def updated(params: Any, batch_stats: Any) -> Any:
        _, new = network.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return new["batch_stats"]

    new_fraction = 1 - BatchNorm.momentum
    of_zero = updated(params, jax.tree.map(jnp.zeros_like, variables["batch_stats"]))
    return {"params": params, "batch_stats": jax.tree.map(lambda x: x / new_fraction, of_zero)}


def damp(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the ResNet; of a block, with a smaller scale of its last norm, which ends the branch."""
    norms = [name for name in part if name.startswith("norm")]
    if not norms:
        return part
    last = max(norms)
    return part | {last: part[last] | {"scale": DAMPING * part[last]["scale"]}}


def load_variables(path: pathlib.Path) -> dict[str, Any]:
    """The variables in a file for JAX."""
    with np.load(path) as file:
        return traverse_util.unflatten_dict({tuple(name.split("/")): file[name] for name in file})


def main(arguments: Sequence[str]) -> None:
    """Write both files."""
    folder, case = pathlib.Path(arguments[0]), Case(**json.loads(arguments[1]))
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, random_variables(case)))
    config = model_config(case)
    tensors = torch_tensors(flat, Naming.of_flavour(config.flavour, config.stem), in_place=False, step=0)
    ours = {"/".join(key): value for key, value in flat.items()}
    for framework, arrays in (("jax", ours), ("torch", tensors)):
        with whole_file(case.weights_file(folder, framework)) as path, path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
