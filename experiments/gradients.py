"""The gradient of a whole network on this device, beside PyTorch's in float64, which is recorded.

    python -m experiments.gradients [--only NETWORK/DTYPE] [--output FILE.json] [--toy]

CCNet at full width, mmsegmentation's with ResNet-50 and ResNet-101 and the authors' with ResNet-50: loss and
gradient of the first training step with two images of 97x97, without dropout, tensor by tensor; in float32,
and of mmsegmentation's ResNet-50 in bfloat16. Also the logits of inference, and the losses of the first five
steps of mmsegmentation's own training. PyTorch's network and ours have the same random weights, which go
through the converter. `experiments/recorded/gradients.npz` has PyTorch's numbers
(`experiments.record_gradients`): the float64 gradient, and how far PyTorch is from it in each dtype.

A tensor's error is the norm of the difference over the norm of the float64 tensor. It may be `FACTOR` times
PyTorch's own, the largest of those of the ways in which a user computes it; of one tensor `ESTIMATED` times
more, as projections estimate its error. Where the exact gradient is 0, as of a bias before a norm, the error
is divided by the norm of the whole gradient instead. Errors that rounding alone explains are never too large:
`ROUNDING[dtype]`, and where the exact gradient is 0 `ZERO[dtype]`.

float32 is computed without TF32. Exits with 1 where an error is too large. What the file holds already is not
computed again. Without --output it writes experiments/results/gradients.json; --toy computes a tiny network;
it and --only write no file unasked.
"""

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jaxtyping import PyTree

from ccnet_jax.evaluation.prediction import scorer
from ccnet_jax.models.ccnet import CCNet
from ccnet_jax.models.config import build_network
from ccnet_jax.training.losses import LossConfig
from ccnet_jax.training.optimizers import OptimizerConfig, build_optimizer
from ccnet_jax.training.semantic_loss import make_loss
from ccnet_jax.training.step import State, make_train_step
from ccnet_jax.weights.conversion import convert_tensors
from ccnet_jax.weights.detection import detect_network
from ccnet_jax.weights.naming import naming_of
from ccnet_jax.weights.values import has_in_place_norms, torch_tensors
from experiments import drawn, markdown
from experiments import gradient_cases as cases
from kernels.bench.measure import ROOT, result_head, resume_report, sources, write_result
from kernels.bench.programs import ending_well, result_file

PATH = ROOT / "experiments" / "results" / "gradients.json"
FACTOR = 2.0  # times PyTorch's own error
ESTIMATED = 1.2  # two standard deviations of what the projections tell of one tensor's error
ROUNDING = {"float32": 2e-6, "bfloat16": 1e-2}  # about twenty roundings of the largest relative error
ZERO = {"float32": 1e-7, "bfloat16": 1e-3}  # of the whole gradient's norm, where the exact tensor is 0
NO_GRADIENT = 1e-9  # of the whole gradient's norm: float64 leaves less of a tensor that is exactly 0
LOSSES_WITHIN = 1e-4  # relative, of the five steps
WHOLE = "all"
Recorded = dict[str, np.ndarray]


class Found(NamedTuple):
    """What this package computes of a case.

    Attributes:
      gradient: {PyTorch's name: tensor in PyTorch's layout} of the first step.
      losses: [steps, 2], of the main head, and of the auxiliary head with its weight.
    """

    gradient: dict[str, np.ndarray]
    losses: np.ndarray


# ------------------------------------------------------------------------------------------------ computing
def convert(tensors: dict[str, np.ndarray], align_corners: bool, dtype: str) -> tuple[CCNet, dict[str, Any]]:
    """The network of a state dict and its variables, as `ccnet_jax.convert` makes them."""
    found = detect_network(tensors, None, cases.RECORDED)
    model = dataclasses.replace(found.model, align_corners=align_corners)
    in_place = has_in_place_norms(tensors, found.naming)
    variables = convert_tensors(tensors, found, model, in_place, cases.RECORDED)
    return build_network(model, cases.CLASSES, dtype), variables


def weights(recorded: Recorded, name: str, chosen: cases.Weights) -> dict[str, np.ndarray]:
    """A state dict for a recorded network."""
    shapes: drawn.Shapes = {key: tuple(x) for key, x in cases.unpack_json(recorded[f"shapes/{name}"]).items()}
    return cases.weights(shapes, chosen)


def without_dropout(step: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced with every dropout left out: its draws cannot be PyTorch's."""

    def left_out(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)

    def intercepted(*args: Any) -> Any:
        with nn.intercept_methods(left_out):
            return step(*args)

    return intercepted


def keeping_gradient(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer; its state is (the last gradient, its own state)."""

    def init(params: PyTree) -> PyTree:
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradient: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return gradient, gradient

    return optax.chain(optax.GradientTransformation(init, update), optimizer)


def optimizer_config() -> OptimizerConfig:
    """mmsegmentation's settings."""
    case = cases.TRAINING
    return OptimizerConfig(
        learning_rate=case.learning_rate,
        min_learning_rate=case.min_learning_rate,
        momentum=case.momentum,
        weight_decay=case.weight_decay,
        power=case.power,
        poly_end="last_step",
    )


def trainer(network: cases.Network, dtype: str) -> Callable[[dict[str, np.ndarray], int], Found]:
    """(state dict, steps) -> what the program that trains computes in these steps; compiled once.

    Its losses are means over all pixels, as mmsegmentation's.
    """
    optimizer = keeping_gradient(build_optimizer(optimizer_config(), cases.TRAINING.schedule_steps))

    @functools.cache
    def program(ccnet: CCNet) -> Callable[..., Any]:
        loss = make_loss(ccnet, LossConfig(auxiliary_weight=cases.AUXILIARY_WEIGHT, average_over="all"))
        return without_dropout(make_train_step(loss, optimizer, seed=0))

    def train(tensors: dict[str, np.ndarray], steps: int) -> Found:
        ccnet, variables = convert(tensors, network.align_corners, dtype)
        state = State(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))
        losses = []
        for n in range(steps):
            images, labels = map(jnp.asarray, cases.batch(network.side, n))
            state, metrics = program(ccnet)(state, {"image": images, "label": labels})
            auxiliary = cases.AUXILIARY_WEIGHT * metrics["auxiliary_loss"]
            losses.append([float(metrics["main_loss"]), float(auxiliary)])
            if n == 0:
                kept = jax.tree.map(np.asarray, state.optimizer[0])
        flat = traverse_util.flatten_dict({"params": kept})
        # in the layout of the weights; a positive weight of in-place ABN has the gradient of its scale
        gradient = torch_tensors(flat, naming_of(tensors, cases.RECORDED), in_place=False, step=0)
        return Found(gradient, np.array(losses))

    return train


def infer(tensors: dict[str, np.ndarray], network: cases.Network) -> np.ndarray:
    """Float32 logits [1, H, W, classes] of the first image, by the compiled program that tests."""
    ccnet, variables = convert(tensors, network.align_corners, "float32")
    images, _ = cases.batch(network.side)
    return np.asarray(scorer(ccnet)(variables, jnp.asarray(images[:1])))


# ------------------------------------------------------------------------------------------------ comparing
def errors(recorded: Recorded, case: str, gradient: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """{tensor, or `WHOLE`: error, and the largest of PyTorch's own}; see the page's beginning.

    The errors are estimated from `cases.projections`.

    Raises:
      ValueError: the gradient has other tensors than the recorded one.
    """
    names = cases.unpack_json(recorded[f"{case}/names"])
    if set(names) != set(gradient):
        raise ValueError(f"{case}: other tensors than recorded: {sorted(set(names) ^ set(gradient))[:5]}")
    norms = recorded[f"{case}/norms"].astype(np.float64)
    theirs = recorded[f"{case}/errors"].astype(np.float64)
    exact = recorded[f"{case}/projections"].astype(np.float64)
    whole, ours, start = np.linalg.norm(norms), [], 0
    for name in names:
        projected = cases.projections(name, gradient[name])
        ours.append(np.linalg.norm(projected - exact[start : start + projected.size]))
        start += projected.size
    if start != exact.size:
        raise ValueError(f"{case}: other sizes than recorded")
    divisors = np.where(norms < NO_GRADIENT * whole, whole, norms)
    found = {
        name: round_all(*pair)
        for name, *pair in zip(names, ours / divisors, theirs.max(0) / divisors, strict=True)
    }
    total = [np.linalg.norm(ours) / whole, np.max(np.linalg.norm(theirs, axis=1)) / whole]
    return {WHOLE: round_all(*total)} | found


def zeros(recorded: Recorded, case: str) -> list[str]:
    """The tensors whose exact gradient is 0."""
    norms = recorded[f"{case}/norms"].astype(np.float64)
    names = cases.unpack_json(recorded[f"{case}/names"])
    return [name for name, x in zip(names, norms, strict=True) if x < NO_GRADIENT * np.linalg.norm(norms)]


def measured_row(recorded: Recorded, name: str, dtype: str) -> dict[str, Any]:
    """What is found of a network in a dtype, beside what is recorded.

    Returns:
      network, dtype;
      errors: see `errors`;
      zeros: see `zeros`;
      loss: relative error, and the largest of PyTorch's own;
      logits: of float32: largest error over the largest logit, and PyTorch's own;
      steps: of the network that is trained: relative errors of each step's losses, main and auxiliary;
      seconds: of everything.
    """
    start, case = time.perf_counter(), f"{name}/{dtype}"
    network = (cases.NETWORKS | cases.TOY)[name]
    row: dict[str, Any] = {"network": name, "dtype": dtype}
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        train = trainer(network, dtype)
        first = train(weights(recorded, name, cases.WEIGHTS[dtype]), 1)
        # what is recorded is of the mean over the labelled pixels
        _, labels = cases.batch(network.side)
        of_labelled = labels.size / (labels != cases.VOID).sum()
        gradient = {key: of_labelled * value for key, value in first.gradient.items()}
        row["errors"] = errors(recorded, case, gradient)
        row["zeros"] = zeros(recorded, case)
        error = abs(of_labelled * first.losses.sum() / recorded[f"{case}/loss"] - 1)
        row["loss"] = round_all(error, recorded[f"{case}/loss_errors"].max())
        if dtype == "float32":
            logits = cases.excerpt(infer(weights(recorded, name, cases.PLAIN), network))
            exact = recorded[f"{name}/logits"]
            error = np.abs(logits - exact).max() / np.abs(exact).max()
            row["logits"] = round_all(error, float(recorded[f"{name}/logits_error"]))
        if (name, dtype) == (cases.TRAINING.network, "float32"):
            losses = train(weights(recorded, name, cases.TRAINING.weights), cases.TRAINING.steps).losses
            differences = np.abs(losses / recorded["training/all"] - 1)
            row["steps"] = [round_all(*pair) for pair in differences]
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def round_all(*numbers: float) -> list[float]:
    """To three digits, as they are written."""
    return [float(f"{x:.3g}") for x in numbers]


def too_large(row: dict[str, Any]) -> list[str]:
    """What of a row is further off than it may be, in words."""
    pairs = row["errors"] | {f"the {key}": row[key] for key in ("loss", "logits") if key in row}
    found = []
    for name, (ours, theirs) in pairs.items():
        least = (ZERO if name in row["zeros"] else ROUNDING)[row["dtype"]]
        factor = FACTOR * ESTIMATED if name in row["errors"] and name != WHOLE else FACTOR
        if not ours <= max(factor * theirs, least):
            found.append(f"{name}: {ours:.1e}, PyTorch {theirs:.1e}")
    for step, losses in enumerate(row.get("steps", []), 1):
        if not max(losses) <= LOSSES_WITHIN:
            found.append(f"the losses of step {step}: {max(losses):.1e}")
    return [f"{row['network']} in {row['dtype']}, {words}" for words in found]


def furthest(row: dict[str, Any]) -> str:
    """The tensor whose error is most times PyTorch's own; of those that are not 0."""
    of_tensors = {k: x for k, x in row["errors"].items() if k != WHOLE and k not in row["zeros"]}
    return max(of_tensors, key=lambda name: markdown.ratio(*map(str, of_tensors[name])))


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"errors"}: Markdown, a line for each network and dtype."""
    lines = []
    for row in report["rows"]:
        name = furthest(row)
        pairs = [row["errors"][WHOLE], row["errors"][name], row.get("logits")]
        whole, tensor, logits = (" / ".join(f"{x:.1e}" for x in pair) if pair else "-" for pair in pairs)
        steps = f"{np.max(row['steps']):.0e}" if "steps" in row else "-"
        lines.append([row["network"], row["dtype"], whole, f"{tensor} (`{name}`)", logits, steps])
    header = ["ours / PyTorch", "", "whole gradient", "the tensor furthest beyond PyTorch's error"]
    return {"errors": markdown.table([*header, "logits", "losses of five steps"], lines)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=result_file, help=f"default: {PATH.relative_to(ROOT)}")
    parser.add_argument("--toy", action="store_true", help="a tiny network; writes no file unasked")
    names = ["/".join(case) for case in cases.CASES]
    parser.add_argument("--only", choices=names, help="one network in one dtype")
    flags = parser.parse_args(arguments)
    output = flags.output or (None if flags.toy or flags.only else PATH)
    report = result_head() | {"sources": sources(*cases.SOURCES)}
    report |= {"toy": flags.toy, "rows": [], "finished": False}
    if output:
        report = resume_report(output, report, ("rows", "finished"))
    recorded, wanted = cases.load_recorded(), cases.TOY_CASES if flags.toy else cases.CASES
    if flags.only:
        wanted = [case for case in cases.CASES if "/".join(case) == flags.only]
    for name, dtype in wanted[len(report["rows"]) :]:
        row = measured_row(recorded, name, dtype)
        ours, theirs = row["errors"][WHOLE]
        words = f"{name} in {dtype}: the gradient is {ours:.1e} off, PyTorch's {theirs:.1e}"
        print(f"{words} ({row['seconds']:.0f} s)", file=sys.stderr, flush=True)
        report["rows"].append(row)
        report["finished"] = len(report["rows"]) == len(wanted)
        if output:  # after every case: a run that is cut short keeps what it has
            write_result(output, report)
    print(tables(report)["errors"])
    if failed := [words for row in report["rows"] for words in too_large(row)]:
        sys.exit("\n".join(["further off than PyTorch by more than it may be:", *failed]))


if __name__ == "__main__":
    with ending_well():
        main()
