"""Mask R-CNN on a ResNet with a feature pyramid and a context module inside. Paper: section 4.5, Table 7."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int32, Num

from ccnet_jax.models.backbones.resnet import ResNet
from ccnet_jax.models.ccnet import ContextModule
from ccnet_jax.models.contexts import ContextSettings
from ccnet_jax.models.detection.anchors import all_anchors
from ccnet_jax.models.detection.fpn import FPN, Pyramid
from ccnet_jax.models.detection.heads import BoxHead, MaskHead, RPNHead
from ccnet_jax.models.detection.proposals import detections, proposals
from ccnet_jax.models.detection.roi_align import roi_align
from ccnet_jax.models.flavours import FLAVOURS, normalize
from ccnet_jax.models.layers import scale_channels

STRIDES = (4, 8, 16, 32, 64)  # of the levels P2 to P6
ROI_LEVELS = 4  # P2 to P5 have the features of regions
BOX_CELLS, MASK_CELLS = 7, 14  # of a region's grid; masks have twice as many
FLAVOUR = FLAVOURS["mmseg"]  # its input and its max pool are torchvision's and mmdetection's


def is_trained_where_frozen(path: tuple[str, ...]) -> bool:
    """Whether the optimizer changes a parameter of a `frozen` network, by its names from the root."""
    if path[0] != "backbone":
        return True
    part = path[1]
    is_norm = any("norm" in name for name in path[1:])
    return not (is_norm or part.startswith(("stem_", "layer1_")))


class RPNOutput(NamedTuple):
    """Of every level, what the region proposal network says of each anchor.

    Attributes:
      logits: [B, n] that it is an object.
      deltas: [B, n, 4] that turn it into a box.
      anchors: [n, 4].
    """

    logits: list[Float32[Array, "B _"]]
    deltas: list[Float32[Array, "B _ 4"]]
    anchors: list[Float32[Array, "_ 4"]]


class Detections(NamedTuple):
    """The objects found in each image, the best one first.

    Attributes:
      boxes: in pixels of the image.
      classes: 0 is the first class; background has none.
      scores: probabilities; NaN, all of an image, where what the network says of it is not finite.
      used: which places of the lists are used.
      masks: probabilities of the object's pixels, in 28 x 28 cells of its box.
    """

    boxes: Float32[Array, "B n 4"]
    classes: Int32[Array, "B n"]
    scores: Float32[Array, "B n"]
    used: Bool[Array, "B n"]
    masks: Float32[Array, "B n cells cells"]


class MaskRCNN(nn.Module):
    """The whole network. Images have sides that are multiples of 32; `size` says which part is an image.

    Attributes:
      num_classes: without background.
      depth: of the ResNet.
      context: a key of `CONTEXTS`, the module before the last block of stage 3.
      loops: of RCCA.
      width: multiplier of every channel count.
      stem: of the ResNet, "7x7" or "deep".
      anchor_scale: side of a level's square anchors, in strides of the level.
      frozen: the backbone's norms keep their statistics and weights, its stem and stage 1 are not trained.
      implementation: backend of criss-cross attention; None chooses by device.
      remat: what the backward pass computes again of the backbone, a key of `layers.REMAT`.
      dtype: of the computation; parameters, statistics and the heads' results are float32.
    """

    num_classes: int
    depth: int = 50
    context: str = "none"
    loops: int = 2
    width: float = 1.0
    stem: str = "7x7"
    anchor_scale: float = 8.0
    frozen: bool = False
    implementation: str | None = None
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The parts, by the names of their parameters."""
        # RCCA's projections again in the backward pass: 1/40 of its operations, a third of RCCA's memory
        settings = ContextSettings(self.loops, self.implementation, remat="blocks", dtype=self.dtype)
        context = None if self.context == "none" else ContextModule(self.context, settings)
        self.context_module = context
        self.backbone = ResNet(
            self.depth,
            (64,) if self.stem == "7x7" else FLAVOUR.stem_channels,
            FLAVOUR.ceil_pool,
            width=self.width,
            remat=self.remat,
            dtype=self.dtype,
            dilated=False,
            before_last=context,
            frozen=self.frozen,
        )
        channels = scale_channels(256, self.width)
        hidden = scale_channels(1024, self.width)
        self.fpn = FPN(channels, self.dtype)
        self.rpn_head = RPNHead(channels, self.dtype)
        self.box_head = BoxHead(self.num_classes, hidden, self.dtype)
        self.mask_head = MaskHead(self.num_classes, channels, self.dtype)

    def pyramid(self, images: Num[Array, "B H W 3"], size: Num[Array, "B 2"], train: bool = False) -> Pyramid:
        """RGB images of 0 to 255, of (height, width) `size` each, to levels P2 to P6."""
        x = normalize(images, FLAVOUR)
        rows, columns = (jnp.arange(side) for side in images.shape[1:3])
        inside = (rows[:, None] < size[:, 0, None, None]) & (columns < size[:, 1, None, None])
        x = jnp.where(inside[..., None], x, 0)  # the mean colour
        return self.fpn(self.backbone(x.astype(self.dtype), train))

    def rpn(self, pyramid: Pyramid, image: tuple[int, int]) -> RPNOutput:
        """What the region proposal network says; `image` is (height, width) with padding."""
        logits, deltas = zip(*map(self.rpn_head, pyramid), strict=True)
        sides = [self.anchor_scale * stride for stride in STRIDES]
        anchors = all_anchors([(level.shape[1], level.shape[2]) for level in pyramid], image, sides)
        return RPNOutput(list(logits), list(deltas), [jnp.asarray(x) for x in anchors])

    def boxes(
        self, pyramid: Pyramid, regions: Float32[Array, "B n 4"]
    ) -> tuple[Float32[Array, "B n logits"], Float32[Array, "B n classes 4"]]:
        """Logits, background first, and deltas of every class, of every region."""
        return self.box_head(self._region_features(pyramid, regions, BOX_CELLS))

    def masks(
        self, pyramid: Pyramid, regions: Float32[Array, "B n 4"]
    ) -> Float32[Array, "B n 28 28 classes"]:
        """Logits of the pixels of every region, for every class."""
        return self.mask_head(self._region_features(pyramid, regions, MASK_CELLS))

    def _region_features(
        self, pyramid: Pyramid, regions: Float32[Array, "B n 4"], cells: int
    ) -> Float[Array, "B n cells cells C"]:
        return roi_align(pyramid[:ROI_LEVELS], regions, cells, STRIDES[:ROI_LEVELS])

    def __call__(
        self,
        images: Num[Array, "B H W 3"],
        size: Num[Array, "B 2"] | None = None,
        before: int = 1000,
        after: int = 1000,
        lowest_score: float = 0.05,
        overlap: float = 0.5,
        count: int = 100,
    ) -> Detections:
        """The objects in images.

        Args:
          images: RGB of 0 to 255; sides are multiples of 32.
          size: (height, width) of each image, where they are padded below or on the right.
          before, after: as of `proposals`.
          lowest_score, overlap, count: as of `detections`.
        """
        if size is None:
            size = jnp.broadcast_to(jnp.array(images.shape[1:3]), (len(images), 2))
        size = size.astype(jnp.float32)
        pyramid = self.pyramid(images, size)
        rpn = self.rpn(pyramid, (images.shape[1], images.shape[2]))
        if self.is_initializing():  # all parameters belong to these; the choice of boxes has none
            regions = jnp.zeros((len(images), 1, 4))
            self.boxes(pyramid, regions)
            masks = self.masks(pyramid, regions)[..., 0]
            none = jnp.zeros((len(images), 1))
            return Detections(regions, none.astype(jnp.int32), none, none > 0, masks)
        regions, used = find_proposals(rpn, size, before, after)
        logits, deltas = self.boxes(pyramid, regions)

        of_image = functools.partial(detections, lowest_score=lowest_score, overlap=overlap, count=count)
        boxes, classes, scores, valid = jax.vmap(of_image)(logits, deltas, regions, used, size)
        masks = self.masks(pyramid, boxes)
        sound = jnp.stack([all_finite(x) for x in (*rpn.logits, *rpn.deltas, logits, deltas, masks)]).all(0)
        scores = jnp.where(sound[:, None], scores, jnp.nan)
        of_class = jnp.take_along_axis(masks, classes[..., None, None, None], -1)[..., 0]
        return Detections(boxes, classes, scores, valid, jax.nn.sigmoid(of_class))


def all_finite(x: Float[Array, "B ..."]) -> Bool[Array, " B"]:
    """Of which images all numbers are finite."""
    return jnp.isfinite(x).all(tuple(range(1, x.ndim)))


def find_proposals(
    rpn: RPNOutput, size: Float32[Array, "B 2"], before: int, after: int
) -> tuple[Float32[Array, "B n 4"], Bool[Array, "B n"]]:
    """The proposals of every image, and which of them are valid; no gradient flows through them."""

    def of_image(
        logits: Sequence[jax.Array], deltas: Sequence[jax.Array], size: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return proposals(logits, deltas, rpn.anchors, size, before, after)

    found = jax.vmap(of_image)(rpn.logits, rpn.deltas, size)
    return jax.lax.stop_gradient(found)
