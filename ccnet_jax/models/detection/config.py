"""The settings of detection: anchors, and how many boxes training and testing look at."""

import dataclasses

import jax.numpy as jnp

from ccnet_jax.common.fields import setting
from ccnet_jax.models.config import ModelConfig
from ccnet_jax.models.detection.mask_rcnn import MaskRCNN


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """`config.detection`: of instance segmentation. The defaults are those of Mask R-CNN on COCO."""

    objects: int = setting(
        100,
        "largest number of an image's objects that training sees",
        at_least=1,
        at_most=10_000,
        before=100,
    )
    frozen: bool = setting(
        True,
        "whether the backbone's norms, its stem and its first stage stay as they are: for a pretrained one",
        before=True,
    )
    anchor_scale: float = setting(
        8.0, "side of a level's square anchors, in strides of the level", above=0, at_most=1000, before=8.0
    )
    train_proposals: int = setting(
        2000,
        "boxes of a level before non-maximum suppression, and of an image after it",
        at_least=1,
        at_most=10_000,
        before=2000,
    )
    test_proposals: int = setting(
        1000, "the same in testing", at_least=1, at_most=10_000, resumable=True, before=1000
    )
    sampled_anchors: int = setting(
        256, "anchors of an image that the proposal losses look at", at_least=2, at_most=10_000, before=256
    )
    sampled_regions: int = setting(
        512, "regions of an image that the losses of boxes look at", at_least=4, at_most=10_000, before=512
    )
    lowest_score: float = setting(
        0.05,
        "probability below which a detection is left out",
        at_least=0,
        at_most=1,
        resumable=True,
        before=0.05,
    )
    detections: int = setting(
        100, "largest number of an image's detections", at_least=1, at_most=10_000, resumable=True, before=100
    )


def build_mask_rcnn(
    model: ModelConfig, detection: DetectionConfig, num_classes: int, dtype: str = "float32"
) -> MaskRCNN:
    """The network that the settings describe."""
    return MaskRCNN(
        num_classes=num_classes,
        depth=model.depth,
        context=model.context,
        loops=model.loops,
        width=model.width,
        stem=model.stem,
        anchor_scale=detection.anchor_scale,
        frozen=detection.frozen,
        implementation=model.implementation,
        remat=model.remat,
        dtype=jnp.dtype(dtype),
    )
