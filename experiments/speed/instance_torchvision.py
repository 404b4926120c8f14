"""torchvision's contender of `experiments.instance_speed`: its Mask R-CNN on a ResNet-50.

Frozen norms, stem and first stage, as in its references. Images keep their size. It draws the masks of
regions from masks of whole images within the step; this project's loader has made small ones before it.
On a GPU it has channels-last, TF32, and autocast for bfloat16, but not cuDNN's search for the fastest
algorithm: the number of its regions changes with each step, and the search would begin again with each.
"""

import pathlib
from typing import Any

import numpy as np
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from experiments.speed import cases, instance_cases, worker
from experiments.speed.cases import Case
from experiments.speed.torch_side import peak_bytes_of, release_of, wait
from experiments.speed.worker import Contender
from kernels.whole_file import whole_file

DAMPING = 0.2  # of residual branches: with random weights every block would double the activations
TRAINED_STAGES = 3


def prepare(case: Case, name: str, folder: pathlib.Path, request: dict[str, Any]) -> Contender:
    """A training step; its random weights go to a file, for the other contender."""
    device = torch.device("cuda" if request["device"] == "gpu" else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{case.depth}",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=TRAINED_STAGES,
    )
    model = detection.MaskRCNN(
        backbone,
        instance_cases.CLASSES + 1,
        min_size=case.height,
        max_size=case.width,
        box_batch_size_per_image=instance_cases.regions(case),
    )
    for block_name, block in model.backbone.body.named_modules():
        if block_name.endswith("bn3"):
            block.weight.mul_(DAMPING)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    with whole_file(case.weights_file(folder, "torch")) as path, path.open("wb") as file:
        np.savez(file, allow_pickle=False, **state)

    model = model.to(device, memory_format=torch.channels_last).train()
    parameters = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.SGD(
        parameters,
        instance_cases.LEARNING_RATE,
        momentum=instance_cases.MOMENTUM,
        weight_decay=instance_cases.WEIGHT_DECAY,
        fused=True,
    )
    pixels = torch.from_numpy(cases.images(case)).to(device)
    images = [x.permute(2, 0, 1).float() / 255 for x in pixels]
    targets = [{key: x.to(device) for key, x in target(case, i).items()} for i in range(case.batch)]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "bfloat16")

    def call() -> torch.Tensor:
        optimizer.zero_grad()
        with autocast:
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Contender(call, wait, peak_bytes_of(images), loss=float, release=release_of(images))


def target(case: Case, i: int) -> dict[str, torch.Tensor]:
    """The objects of an image, as torchvision takes them."""
    boxes = instance_cases.boxes(case)[i]
    masks = np.zeros((len(boxes), case.height, case.width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.from_numpy(instance_cases.classes(case)[i]).long() + 1
    return {"boxes": torch.from_numpy(boxes), "labels": labels, "masks": torch.from_numpy(masks)}


if __name__ == "__main__":
    worker.serve(prepare)
