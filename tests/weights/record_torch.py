"""Compute the cases of `tests/weights/parity_cases.py` with PyTorch and record the results.

    python -m tests.weights.record_torch        # needs PyTorch; writes tests/weights/recorded/torch.npz

Keys of the file:

    versions                            JSON: of PyTorch, NumPy and Python
    shapes/NETWORK                      JSON: {name: shape} of the state dict of each of `NETWORKS`
    published/FLAVOUR-DEPTH             JSON: the same at full width with 19 classes
    published/FLAVOUR-DEPTH/parameters  int: trainable parameters
    predict/NETWORK/HxW/logits          `excerpt` of the main head's logits at the image's size
    predict/NETWORK/HxW/logits_means    `means` of them
    predict/NETWORK/HxW/stage{3,4}      `excerpt` of the features of these ResNet stages
    predict/NETWORK/HxW/stage{3,4}_means
    train/FLAVOUR/metrics               [3 steps, 4]: loss, main loss, auxiliary loss, norm of the gradient
    train/FLAVOUR/after{1,3}            `sample` of each tensor of the state dict after so many steps, joined
                                        in the order of their names, counters left out
    loss/KIND, loss/KIND/gradient       of `loss_inputs`, and of its logits; KIND: plain, weighted, smoothed,
                                        weighted_smoothed, ohem
    optimizer/KIND                      [5 steps, 15]: kernel and bias after each step; KIND: sgd or adamw,
                                        then nothing, _poly, _clipped or _bias_not_decayed
    clip/MAX/norm, clip/MAX/clipped     `clip_grad_norm_` of the first gradients, kernel and bias joined
    schedule/{poly,cosine}              the rates of steps 0 to 10 of 10
    resize/{aligned,unaligned}/HxW-HxW  bilinear `interpolate` of `features`
    pool/HxW/BINS                       `adaptive_avg_pool2d` of `features`
    max_pool/{ceil,floor}/HxW           3x3, stride 2, padding 1, of `features`
"""

import math
import platform

import numpy as np
import torch
import torch.nn.functional as F

from experiments import drawn, torch_ccnet
from experiments.gradient_cases import pack_json
from tests.weights import parity_cases as cases


def recorded() -> dict[str, np.ndarray]:
    """{key: array} of everything."""
    torch.manual_seed(0)
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    parts = (network_shapes(), predictions(), trainings(), losses(), optimizers(), layers())
    values = {"versions": pack_json(versions)}
    for part in parts:
        values |= part
    return {key: np.asarray(value) for key, value in values.items()}


def built(network: cases.Network) -> torch.nn.Module:
    """A network with weights made by NumPy, in evaluation mode."""
    build = torch_ccnet.NETWORKS[network.flavour]
    model = build(cases.CLASSES, network.depth, cases.WIDTH, dropout=0.0, **options(network))
    arrays = drawn.weights(shapes(model), network.negative)
    model.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})
    return model.eval()


def options(network: cases.Network) -> dict[str, object]:
    """Of the constructor."""
    if network.flavour == "mmseg":
        return {"stem": network.stem}
    return {"norm": torch_ccnet.InPlaceABN if network.norm == "in_place" else torch.nn.BatchNorm2d}


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the state dict."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def nchw(x: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] -> float32 [B, C, H, W]."""
    return torch.tensor(x).permute(0, 3, 1, 2).float()


def nhwc(x: torch.Tensor) -> np.ndarray:
    """The reverse."""
    return x.detach().permute(0, 2, 3, 1).numpy()


# ---------------------------------------------------------------------------------------------- networks
def network_shapes() -> dict[str, object]:
    """Names and shapes of the narrow networks, and of the published ones."""
    values = {f"shapes/{name}": pack_json(shapes(built(case))) for name, case in cases.NETWORKS.items()}
    for flavour in torch_ccnet.NETWORKS:
        for depth in (50, 101):
            with torch.device("meta"):
                model = torch_ccnet.NETWORKS[flavour](cases.CLASSES, depth)
            key = f"published/{flavour}-{depth}"
            values[key] = pack_json(shapes(model))
            values[f"{key}/parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return values


def predictions() -> dict[str, np.ndarray]:
    """Logits and features of each prediction."""
    values = {}
    for case in cases.PREDICTIONS:
        model = built(cases.NETWORKS[case.network])
        model.align_corners, model.loops = case.align_corners, case.loops
        for name, value in outputs(model, nchw(cases.images(1, *case.size))).items():
            values[f"{case.key}/{name}"] = cases.excerpt(value)
            values[f"{case.key}/{name}_means"] = cases.means(value)
    return values


def outputs(model: torch.nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
    """{"stage3", "stage4", "logits"}: [B, H, W, C]."""
    found = {}
    backbone = getattr(model, "backbone", model)
    for stage in ("stage3", "stage4"):

        def note(_, inputs, output, stage=stage):
            found[stage] = nhwc(output)

        getattr(backbone, stage.replace("stage", "layer")).register_forward_hook(note)
    with torch.no_grad():
        logits, _ = model(images)
    return {**found, "logits": nhwc(logits)}


def ohem(logits: torch.Tensor, labels: torch.Tensor, threshold: float, min_kept: int) -> torch.Tensor:
    """Mean loss of the pixels with p <= threshold; of the min_kept an image with the lowest p, if more."""
    pixels = F.cross_entropy(logits, labels, ignore_index=cases.VOID, reduction="none")
    hardest_first = pixels[labels != cases.VOID].sort(descending=True).values
    hard = (hardest_first >= -math.log(threshold)).sum()
    return hardest_first[: max(int(hard), min_kept * len(labels))].mean()


def trainings() -> dict[str, np.ndarray]:
    """Metrics and state of three steps of SGD in both flavours."""
    values = {}
    for flavour, case in cases.TRAININGS.items():
        model = built(cases.NETWORKS[f"{flavour}-10"])
        optimizer = torch.optim.SGD(
            model.parameters(), case.learning_rate, momentum=case.momentum, weight_decay=case.weight_decay
        )
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, case.steps, case.power)
        labels = torch.tensor(cases.training_labels()).long()
        model.train()
        metrics = []
        for step in range(3):
            logits, auxiliary = model(nchw(cases.images(*cases.TRAINING_SIZE, seed=step)))
            if case.ohem:
                main = ohem(logits, labels, case.ohem_threshold, case.ohem_min_kept)
            else:
                main = F.cross_entropy(logits, labels, ignore_index=cases.VOID)
            side = F.cross_entropy(auxiliary, labels, ignore_index=cases.VOID)
            loss = main + case.auxiliary_weight * side
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
            optimizer.step()
            schedule.step()
            metrics.append([value.item() for value in (loss, main, side, norm)])
            if step in (0, 2):
                state = {name: value.numpy() for name, value in sorted(model.state_dict().items())}
                values[f"train/{flavour}/after{step + 1}"] = np.concatenate(
                    [
                        cases.sample(name, value)
                        for name, value in state.items()
                        if not name.endswith("num_batches_tracked")
                    ]
                )
        values[f"train/{flavour}/metrics"] = np.array(metrics, np.float32)
    return values


# ------------------------------------------------------------------------------------ parts and optimizers
def losses() -> dict[str, object]:
    """Cross-entropy with class weights and label smoothing, and OHEM; the gradients of the logits."""
    weight, smoothing = torch.tensor(cases.LOSS_CLASS_WEIGHTS), cases.LOSS_LABEL_SMOOTHING
    settings = {
        "plain": {},
        "weighted": {"weight": weight},
        "smoothed": {"label_smoothing": smoothing},
        "weighted_smoothed": {"weight": weight, "label_smoothing": smoothing},
        "ohem": None,
    }
    inputs, labels = cases.loss_inputs()
    values = {}
    for kind, options in settings.items():
        logits = nchw(inputs).requires_grad_()
        target = torch.tensor(labels).long()
        if options is None:
            loss = ohem(logits, target, cases.LOSS_OHEM_THRESHOLD, cases.LOSS_OHEM_MIN_KEPT)
        else:
            loss = F.cross_entropy(logits, target, ignore_index=cases.VOID, **options)
        loss.backward()
        values[f"loss/{kind}"] = np.float32(loss.item())
        values[f"loss/{kind}/gradient"] = nhwc(logits.grad)
    return values


def optimizers() -> dict[str, object]:
    """Trajectories of SGD and AdamW, clipping, and schedules."""
    values = {}
    for kind in ("sgd", "adamw"):
        values[f"optimizer/{kind}"] = trajectory(kind)
        values[f"optimizer/{kind}_poly"] = trajectory(kind, rates=cases.poly_rates())
        values[f"optimizer/{kind}_clipped"] = trajectory(kind, clip=cases.CLIP_NORM)
        values[f"optimizer/{kind}_bias_not_decayed"] = trajectory(kind, decay_bias=False)
    for largest in cases.CLIP_NORMS:
        gradients = parameters(cases.optimizer_inputs()[1][0])
        for value in gradients.values():
            value.grad = value.detach().clone()
        norm = torch.nn.utils.clip_grad_norm_(gradients.values(), largest)
        values[f"clip/{largest:g}/norm"] = np.float32(norm.item())
        values[f"clip/{largest:g}/clipped"] = joined({name: value.grad for name, value in gradients.items()})
    for kind in ("poly", "cosine"):
        values[f"schedule/{kind}"] = rates(kind)
    return values


def parameters(arrays: dict[str, np.ndarray]) -> dict[str, torch.nn.Parameter]:
    """Of the arrays."""
    return {name: torch.nn.Parameter(torch.tensor(value)) for name, value in arrays.items()}


def joined(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """[15]: kernel, then bias."""
    return np.concatenate([tensors[name].detach().numpy().ravel() for name in ("kernel", "bias")])


def trajectory(
    kind: str, rates: list[float] | None = None, clip: float | None = None, decay_bias: bool = True
) -> np.ndarray:
    """[5, 15]: the parameters after each step."""
    start, gradients = cases.optimizer_inputs()
    tensors = parameters(start)
    groups = [
        {"params": [tensors["kernel"]], "weight_decay": cases.WEIGHT_DECAY},
        {"params": [tensors["bias"]], "weight_decay": cases.WEIGHT_DECAY * decay_bias},
    ]
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, cases.LEARNING_RATE, momentum=cases.MOMENTUM)
    else:
        optimizer = torch.optim.AdamW(groups, cases.LEARNING_RATE)  # betas 0.9 and 0.999, eps 1e-8
    steps = []
    for step, gradient in enumerate(gradients):
        for name, value in tensors.items():
            value.grad = torch.tensor(gradient[name])
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(tensors.values(), clip)
        for group in optimizer.param_groups:
            group["lr"] = cases.LEARNING_RATE if rates is None else rates[step]
        optimizer.step()
        steps.append(joined(tensors))
    return np.stack(steps)


def rates(kind: str) -> np.ndarray:
    """[11]: the rates of PyTorch's own schedule at steps 0 to 10 of 10."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], cases.LEARNING_RATE)
    if kind == "poly":
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, cases.SCHEDULE_STEPS, cases.POLY_POWER)
    else:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, cases.SCHEDULE_STEPS, cases.COSINE_MINIMUM
        )
    found = []
    for _ in range(cases.SCHEDULE_STEPS + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found, np.float32)


def layers() -> dict[str, np.ndarray]:
    """Resizing and pooling."""
    values = {}
    for before, after in cases.RESIZED:
        for aligned in (True, False):
            x = F.interpolate(nchw(cases.features(*before)), after, mode="bilinear", align_corners=aligned)
            values[cases.resize_key(before, after, aligned)] = cases.excerpt(nhwc(x), pixels=8)
    for size in cases.POOLED:
        for side in cases.BINS:
            x = F.adaptive_avg_pool2d(nchw(cases.features(*size)), side)
            values[cases.pool_key(size, side)] = nhwc(x)
    for size in cases.MAX_POOLED:
        for ceil in (True, False):
            x = F.max_pool2d(nchw(cases.features(*size)), 3, 2, 1, ceil_mode=ceil)
            values[cases.max_pool_key(size, ceil)] = cases.excerpt(nhwc(x), pixels=8)
    return values


def main() -> None:
    """Write the file."""
    values = recorded()
    cases.RECORDED.parent.mkdir(exist_ok=True)
    np.savez_compressed(cases.RECORDED, **values)
    print(f"{cases.RECORDED}: {len(values)} arrays, {cases.RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
