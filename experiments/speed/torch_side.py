"""PyTorch's contenders of `experiments.model_speed`: eager, channels-last, and compiled.

All take images in uint8 and give label maps, or make a whole step: forward, both losses, backward, SGD.
TF32 is allowed, cuDNN may try its algorithms, and the optimizer is fused. "torch" keeps PyTorch's default
layout; "torch channels-last" and "torch.compile" use channels-last. bfloat16 is autocast.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from experiments.speed import cases, worker
from experiments.speed.cases import Case
from experiments.speed.worker import Contender
from experiments.torch_ccnet import NETWORKS, Network


def prepare(case: Case, name: str, folder: pathlib.Path, request: dict[str, Any]) -> Contender:
    """The case on the request's "device", "gpu" or "cpu". Raises RuntimeError where PyTorch sees no GPU."""
    if request["device"] == "gpu" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    device = torch.device("cuda" if request["device"] == "gpu" else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    model = NETWORKS["mmseg"](cases.CLASSES, case.depth, case.channels)
    with np.load(case.weights_file(folder, "torch")) as file:
        model.load_state_dict({name: torch.from_numpy(file[name]) for name in file})
    layout = torch.contiguous_format if name == "torch" else torch.channels_last
    model = model.to(device, memory_format=layout).train(case.task == "training")
    images = torch.from_numpy(cases.images(case)).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.from_numpy(cases.labels(case)).long()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "bfloat16")
    compiled = name == "torch.compile"
    if case.task == "training":
        return training(model, images.to(device), labels.to(device), autocast, compiled)
    return inference(model, images.to(device), autocast, compiled)


def training(
    model: Network, images: torch.Tensor, labels: torch.Tensor, autocast: torch.autocast, compiled: bool
) -> Contender:
    """Forward, both losses, backward and a step."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        cases.LEARNING_RATE,
        momentum=cases.MOMENTUM,
        weight_decay=cases.WEIGHT_DECAY,
        fused=True,
    )

    def loss_of(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        main, auxiliary = (F.cross_entropy(x, labels, ignore_index=cases.VOID) for x in model(images))
        return main + cases.AUXILIARY_WEIGHT * auxiliary

    loss_fn = torch.compile(loss_of, dynamic=False) if compiled else loss_of

    def call() -> torch.Tensor:
        optimizer.zero_grad()
        with autocast:
            loss = loss_fn(images, labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Contender(call, wait, peak_bytes_of(images), loss=float, release=release_of(images))


def inference(model: Network, images: torch.Tensor, autocast: torch.autocast, compiled: bool) -> Contender:
    """Label maps, uint8 [B, H, W]."""

    def label_map(images: torch.Tensor) -> torch.Tensor:
        return model(images, auxiliary=False)[0].argmax(1).to(torch.uint8)

    predict = torch.compile(label_map, dynamic=False) if compiled else label_map

    @torch.inference_mode()
    def call() -> torch.Tensor:
        with autocast:
            return predict(images)

    @torch.inference_mode()
    def logits() -> np.ndarray:
        with autocast:
            found, _ = model(images[:1], auxiliary=False)
        return found[0].permute(1, 2, 0).float().cpu().numpy()

    if compiled:  # its logits would be a compilation of their own
        return Contender(call, wait, peak_bytes_of(images), release=release_of(images))
    return Contender(call, wait, peak_bytes_of(images), logits=logits, release=release_of(images))


def release_of(images: torch.Tensor) -> Callable[[], None] | None:
    """What gives PyTorch's cached memory back, where the images lie on a GPU."""
    return torch.cuda.empty_cache if images.is_cuda else None


def wait(result: torch.Tensor) -> None:
    """Until the GPU is done; on a CPU every result is."""
    if result.is_cuda:
        torch.cuda.synchronize()


def peak_bytes_of(images: torch.Tensor) -> Callable[[], int]:
    """What tells the most memory so far: of the GPU, where the images lie on one, or of the process."""
    return torch.cuda.max_memory_allocated if images.is_cuda else worker.resident_bytes


if __name__ == "__main__":
    worker.serve(prepare)
