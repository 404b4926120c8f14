"""The settings of detection: anchors, and how many boxes training and testing look at."""

import dataclasses

from ccnet_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """`config.detection`: of instance segmentation. The defaults are those of Mask R-CNN on COCO."""

    objects: int = setting(
        100, "largest number of a picture's objects that training sees", at_least=1, at_most=10_000
    )
    anchor_scale: float = setting(8.0, "side of a level's square anchors, in strides of the level", above=0)
    train_proposals: int = setting(
        2000, "boxes of a level before non-maximum suppression, and of a picture after it", at_least=1
    )
    test_proposals: int = setting(1000, "the same in testing", at_least=1, resumable=True)
    sampled_anchors: int = setting(256, "of a picture, that the proposal loss looks at", at_least=2)
    sampled_regions: int = setting(512, "of a picture, that the losses of boxes look at", at_least=2)
    lowest_score: float = setting(
        0.05, "probability below which a detection is left out", at_least=0, at_most=1, resumable=True
    )
    detections: int = setting(100, "largest number of a picture's detections", at_least=1, resumable=True)

    def complaints(self) -> list[str]:
        """Sentences about settings that do not go together: there are none."""
        return []
