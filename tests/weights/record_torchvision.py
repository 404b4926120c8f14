"""Compute the cases of `tests/weights/mask_rcnn_cases.py` with torchvision and record the results.

    python -m tests.weights.record_torchvision   # needs torchvision; writes recorded/torchvision.npz

Keys of the file, for each DEPTH and size HxW of an image:

    versions                  JSON: of torchvision, PyTorch, NumPy and Python
    shapes/50                 JSON: {name: shape} of torchvision's `maskrcnn_resnet50_fpn`
    DEPTH/HxW/level{2..6}     `excerpt` of the pyramid's levels, [H, W, C]
    DEPTH/HxW/rpn_logits      `excerpt`, the anchors of all levels
    DEPTH/HxW/rpn_deltas      `excerpt`
    DEPTH/HxW/features        `excerpt` of RoIAlign of `regions`, [regions, 7, 7, C]
    DEPTH/HxW/box_logits      of `regions`, background first
    DEPTH/HxW/box_deltas      of `regions`, [regions, classes, 4]
    DEPTH/HxW/mask_logits     `excerpt`, [regions, 28, 28, classes]
    DEPTH/HxW/boxes, classes, scores      the detections, the best first
    DEPTH/HxW/masks           `excerpt` of their masks' probabilities
"""

import json
import platform

import numpy as np
import torch
import torchvision
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tests.weights import mask_rcnn_cases as cases


def of_torchvision(depth: int) -> detection.MaskRCNN:
    """The network with the cases' weights, which tests images in their own size."""
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{depth}", weights=None, norm_layer=torchvision.ops.misc.FrozenBatchNorm2d
    )
    model = detection.MaskRCNN(
        backbone, cases.CLASSES + 1, box_score_thresh=0.05, box_detections_per_img=cases.DETECTIONS
    )
    state, _ = cases.random_state(depth)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=True)
    return model.eval()


@torch.inference_mode()
def results(depth: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """All that is compared."""
    model = of_torchvision(depth)
    model.transform.min_size, model.transform.max_size = (min(size),), max(size)
    x = torch.from_numpy(cases.image(size)).permute(2, 0, 1).float() / 255
    images, _ = model.transform([x])
    assert images.image_sizes == [size]
    levels = model.backbone(images.tensors)
    features = list(levels.values())
    found = {f"level{n}": level[0].permute(1, 2, 0) for n, level in enumerate(features, 2)}
    logits, deltas = model.rpn.head(features)
    anchors = len(model.rpn.anchor_generator.aspect_ratios[0])
    found["rpn_logits"] = torch.cat([x[0].permute(1, 2, 0).reshape(-1) for x in logits])
    found["rpn_deltas"] = torch.cat(
        [x[0].reshape(anchors, 4, *x.shape[2:]).permute(2, 3, 0, 1).reshape(-1, 4) for x in deltas]
    )
    regions = [torch.from_numpy(cases.regions(size))]
    heads = model.roi_heads
    pooled = heads.box_roi_pool(levels, regions, images.image_sizes)
    found["features"] = pooled.permute(0, 2, 3, 1)
    box_logits, box_deltas = heads.box_predictor(heads.box_head(pooled))
    found["box_logits"] = box_logits
    found["box_deltas"] = box_deltas.reshape(cases.REGIONS, -1, 4)[:, 1:]
    pooled = heads.mask_roi_pool(levels, regions, images.image_sizes)
    found["mask_logits"] = heads.mask_predictor(heads.mask_head(pooled)).permute(0, 2, 3, 1)[..., 1:]
    proposals, _ = model.rpn(images, levels)
    (detected,), _ = heads(levels, proposals, images.image_sizes)
    found |= {"boxes": detected["boxes"], "classes": detected["labels"] - 1, "scores": detected["scores"]}
    found["masks"] = detected["masks"][:, 0]
    return {name: value.numpy() for name, value in found.items()}


def main() -> None:
    """The program."""
    versions = {"torchvision": torchvision.__version__, "torch": torch.__version__}
    versions |= {"numpy": np.__version__, "python": platform.python_version()}
    whole = {"boxes", "classes", "scores", "box_logits", "box_deltas"}
    recorded: dict[str, np.ndarray] = {"versions": np.array(json.dumps(versions))}
    published = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    shapes = {name: list(x.shape) for name, x in published.state_dict().items()}
    recorded["shapes/50"] = np.array(json.dumps(shapes))
    for depth in cases.DEPTHS:
        for size in cases.SIZES:
            for name, value in results(depth, size).items():
                key = f"{depth}/{size[0]}x{size[1]}/{name}"
                recorded[key] = value if name in whole else cases.excerpt(value)
    np.savez_compressed(cases.RECORDED, allow_pickle=False, **recorded)
    print(f"{len(recorded)} results in {cases.RECORDED}")


if __name__ == "__main__":
    main()
