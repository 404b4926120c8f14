"""Record what PyTorch computes of the cases of `experiments.gradient_cases`, in an environment of its own.

    python -m venv V
    V/bin/pip install torch torchvision mmcv-lite==2.2.0 mmengine==0.10.7
    V/bin/pip install ftfy regex prettytable matplotlib scipy packaging
    V/bin/pip install --no-deps onedl-mmsegmentation==1.4.2
    V/bin/pip download --no-deps onedl-mmcv==2.3.6    # unpack mmcv/ops/cc_attention.py from it
    CC_ATTENTION=cc_attention.py V/bin/python -m experiments.record_gradients

Writes experiments/recorded/gradients.npz, part by part. mmsegmentation's networks, losses, optimizer and
schedule are its own, from its own configs; the authors' network is that of `experiments.torch_ccnet`. Takes
half an hour on two cores.
"""

import argparse
import contextlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.optim import PolyLR, build_optim_wrapper

from experiments import gradient_cases as cases
from experiments import real_mmseg, torch_ccnet

# mmsegmentation's; `experiments.torch_ccnet` takes raw images and has its own.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Ways in which a user of PyTorch computes a gradient; they round differently. {name: keywords of `gradient`}
WAYS = {
    "float32": {
        "plain": {},
        "channels last": {"channels_last": True},
        "without oneDNN": {"one_dnn": False},
    },
    "bfloat16": {
        "autocast": {"autocast": True},
        "autocast, channels last": {"autocast": True, "channels_last": True},
    },
}
Gradient = dict[str, np.ndarray]  # {name: float64}
Recording = dict[str, np.ndarray]
LossOf = Callable[[torch.Tensor, np.ndarray], torch.Tensor]  # (images [B, 3, H, W], labels) -> loss []


def built(network: cases.Network) -> tuple[torch.nn.Module, LossOf]:
    """A network without dropout, in training mode, and its loss of raw images."""
    if network.itself:
        settings = real_mmseg.config(network.depth, True, network.side)
        assert settings.model.decode_head.align_corners == network.align_corners
        model = real_mmseg.build(settings)

        def loss_of_mmseg(images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
            losses = model.loss(normalize(images), real_mmseg.samples(labels))
            return losses["decode.loss_ce"] + losses["aux.loss_ce"]

        return model, loss_of_mmseg
    build = torch_ccnet.NETWORKS[network.flavour]
    model = build(
        cases.CLASSES, network.depth, network.width, align_corners=network.align_corners, dropout=0.0
    ).train()

    def loss_of(images: torch.Tensor, labels: np.ndarray) -> torch.Tensor:
        target = torch.from_numpy(labels).long()
        main, auxiliary = (F.cross_entropy(x, target, ignore_index=cases.VOID) for x in model(images))
        return main + cases.AUXILIARY_WEIGHT * auxiliary

    return model, loss_of


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Raw RGB images as mmsegmentation's preprocessor normalises them, in the dtype that they have."""
    mean, std = (torch.tensor(x, dtype=images.dtype).view(3, 1, 1) for x in (MEAN, STD))
    return (images - mean) / std


def shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the state dict."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def load(model: torch.nn.Module, chosen: cases.Weights) -> None:
    """Give the network these weights."""
    arrays = cases.weights(shapes(model), chosen)
    model.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})


@contextlib.contextmanager
def computing(one_dnn: bool = True, autocast: bool = False) -> Iterator[None]:
    """Where PyTorch computes so."""
    with (
        torch.backends.mkldnn.flags(enabled=one_dnn),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        yield


def gradient(
    name: str, network: cases.Network, dtype: str, kind: torch.dtype, channels_last: bool = False, **how: bool
) -> tuple[float, Gradient]:
    """Loss and gradient of the first step at the weights of `dtype`, with parameters of this kind."""
    model, loss_of = built(network)
    load(model, cases.WEIGHTS[dtype])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(kind).to(memory_format=layout)
    images, labels = cases.batch(network.side)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(kind).contiguous(memory_format=layout)
    with computing(**how):
        loss = loss_of(x, labels)
    loss.backward()
    print(name, dtype, kind, channels_last, how, loss.item(), flush=True)
    found = {key: p.grad.double().numpy() for key, p in sorted(model.named_parameters())}
    return loss.item(), found


def gradients(name: str, network: cases.Network, dtype: str) -> Recording:
    """What is recorded of a network's gradient in a dtype."""
    exact_loss, exact = gradient(name, network, dtype, torch.float64)
    loss_errors, errors = [], []
    for way in WAYS[dtype].values():
        loss, found = gradient(name, network, dtype, torch.float32, **way)
        loss_errors.append(abs(loss / exact_loss - 1))
        errors.append([np.linalg.norm(found[key] - exact[key]) for key in exact])
    norms = [np.linalg.norm(x) for x in exact.values()]
    print("errors of the whole", np.linalg.norm(errors, axis=1) / np.linalg.norm(norms), flush=True)
    return {
        "names": cases.pack_json(list(exact)),
        "loss": np.array(exact_loss),
        "loss_errors": np.array(loss_errors),
        "norms": np.array(norms, np.float32),
        "errors": np.array(errors, np.float32),
        "projections": np.concatenate([cases.projections(key, value) for key, value in exact.items()]).astype(
            np.float32
        ),
    }


def logits(network: cases.Network) -> Recording:
    """What is recorded of a network's inference."""
    images, _ = cases.batch(network.side)
    found = {}
    for kind in (torch.float32, torch.float64):
        model, _ = built(network)
        load(model, cases.PLAIN)
        model.eval().to(kind)
        x = torch.from_numpy(images[:1]).permute(0, 3, 1, 2).to(kind)
        with torch.no_grad():
            if isinstance(model, torch_ccnet.Network):
                out, _ = model(x)
            else:
                meta = [{"img_shape": images.shape[1:3], "ori_shape": images.shape[1:3]}]
                out = model.whole_inference(normalize(x), meta)
        found[kind] = out.permute(0, 2, 3, 1).double().numpy()
    single, exact = found[torch.float32], found[torch.float64]
    error = np.abs(single - exact).max() / np.abs(exact).max()
    print("logits", network, np.abs(exact).max(), error, flush=True)
    return {"logits": cases.excerpt(exact).astype(np.float32), "logits_error": np.array(error)}


def training(valid_pixels: bool) -> tuple[np.ndarray, np.ndarray]:
    """Losses [steps, 2] and learning rates [steps] of mmsegmentation's own steps."""
    case = cases.TRAINING
    network = cases.NETWORKS[case.network]
    settings = real_mmseg.config(network.depth, valid_pixels, network.side)
    model = real_mmseg.build(settings)
    load(model, case.weights)
    wrapper = build_optim_wrapper(model, settings.optim_wrapper)
    optimizer = wrapper.optimizer
    given = {key: optimizer.defaults[key] for key in ("lr", "momentum", "weight_decay")}
    assert given == {
        "lr": case.learning_rate, "momentum": case.momentum, "weight_decay": case.weight_decay
    }  # fmt: skip
    schedule = dict(settings.param_scheduler[0])
    assert schedule.pop("type") == "PolyLR"
    assert (schedule["eta_min"], schedule["power"]) == (case.min_learning_rate, case.power)
    scheduler = PolyLR(wrapper, **schedule | {"end": case.schedule_steps})
    losses, rates = [], []
    for step in range(case.steps):
        images, labels = cases.batch(network.side, step)
        # mmsegmentation reads images as BGR, and its preprocessor turns them into RGB
        inputs = [torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()) for image in images]
        rates.append(optimizer.param_groups[0]["lr"])
        logged = model.train_step({"inputs": inputs, "data_samples": real_mmseg.samples(labels)}, wrapper)
        scheduler.step()
        losses.append([logged[key].item() for key in ("decode.loss_ce", "aux.loss_ce")])
        print("training", valid_pixels, step, rates[-1], losses[-1], flush=True)
    return np.array(losses), np.array(rates)


def versions() -> dict[str, str]:
    """Of what computed."""
    packages = ("torch", "onedl-mmsegmentation", "mmengine", "mmcv-lite", "numpy")
    return {name: importlib.metadata.version(name) for name in packages} | {
        "python": platform.python_version()
    }


def recorded_training() -> Recording:
    """What is recorded of the five steps, with both means."""
    found: Recording = {}
    for name, valid_pixels in (("valid", True), ("all", False)):
        found[f"training/{name}"], found["training/learning_rates"] = training(valid_pixels)
    return found


def record(name: str) -> Recording:
    """What is recorded of a network."""
    network = (cases.NETWORKS | cases.TOY)[name]
    found = {f"shapes/{name}": cases.pack_json(shapes(built(network)[0]))}
    found |= {f"{name}/{key}": value for key, value in logits(network).items()}
    for dtype in [dtype for case, dtype in cases.CASES + cases.TOY_CASES if case == name]:
        found |= {f"{name}/{dtype}/{key}": value for key, value in gradients(name, network, dtype).items()}
    return found


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["training", *cases.TOY, *cases.NETWORKS]
    parser.add_argument("parts", nargs="*", help=f"only these again; of {', '.join(names)}")
    for part in parser.parse_args().parts or names:
        before = cases.load_recorded() if cases.RECORDED.exists() else {}
        kept = {key: value for key, value in before.items() if not key.startswith(f"{part}/")}
        found = kept | (recorded_training() if part == "training" else record(part))
        found["versions"] = cases.pack_json(versions())
        cases.RECORDED.parent.mkdir(exist_ok=True)
        np.savez_compressed(cases.RECORDED, allow_pickle=False, **found)
    print(cases.RECORDED.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
