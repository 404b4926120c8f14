"""The losses of Mask R-CNN. Papers: Faster R-CNN, section 3.1.2; Fast R-CNN, 2.3; Mask R-CNN, section 3."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float32, Int32, Key, Num, PRNGKeyArray, PyTree, UInt8

from ccnet_jax.models.detection.boxes import encode_boxes
from ccnet_jax.models.detection.config import DetectionConfig
from ccnet_jax.models.detection.mask_rcnn import MaskRCNN, RPNOutput, find_proposals
from ccnet_jax.models.detection.matching import IGNORED, match_boxes, sample_boxes
from ccnet_jax.models.detection.proposals import BOX_WEIGHTS, RPN_WEIGHTS
from ccnet_jax.training.means import Mean
from ccnet_jax.training.step import Loss

_NAMES = ("objectness_loss", "proposal_loss", "class_loss", "box_loss", "mask_loss")
ANCHOR_OVERLAP = (0.7, 0.3)  # from which an anchor stands for an object, and below which for background
REGION_OVERLAP = (0.5, 0.5)
POSITIVE_ANCHORS, POSITIVE_REGIONS = 0.5, 0.25  # largest fractions of those that are looked at
_PROPOSAL_BETA, _BOX_BETA = 1 / 9, 1.0  # where smooth L1 turns from a square to a line

# {"image": uint8 [B, H, W, 3], "size": int [B, 2], "boxes": float32 [B, N, 4], "classes": int [B, N],
#  "used": bool [B, N], "masks": uint8 [B, N, M, M]}; masks are fractions, of 255, of M x M cells of a box
InstanceBatch = dict[str, jax.Array]
Means = dict[str, Mean]


def make_instance_loss(network: MaskRCNN, config: DetectionConfig) -> Loss:
    """The training loss: the sum of five means.

    Anchors and regions are drawn from a key for each image, so that the draw does not depend on the number
    of devices.
    """

    def means(
        params: PyTree, batch_stats: PyTree, batch: InstanceBatch, key: PRNGKeyArray
    ) -> tuple[Means, PyTree]:
        """-> the means, the new batch_stats."""
        variables = {"params": params, "batch_stats": batch_stats}
        apply: Callable[..., Any] = functools.partial(network.apply, variables)
        size = batch["size"].astype(jnp.float32)
        pyramid, updated = apply(batch["image"], size, True, method="pyramid", mutable=["batch_stats"])
        rpn = apply(pyramid, batch["image"].shape[1:3], method="rpn")
        keys = jax.random.split(key, (2, len(size)))
        found = proposal_losses(rpn, batch, keys[0], config.sampled_anchors)

        regions, used = find_proposals(rpn, size, config.train_proposals, config.train_proposals)
        regions = jnp.concatenate([regions, batch["boxes"]], 1)
        used = jnp.concatenate([used, batch["used"]], 1)
        regions, match, chosen = jax.vmap(_sampled_regions, (0, 0, 0, 0, 0, None))(
            regions, used, batch["boxes"], batch["used"], keys[1], config.sampled_regions
        )
        logits, deltas = apply(pyramid, regions, method="boxes")
        found |= box_losses(logits, deltas, regions, match, chosen, batch)

        most = round(config.sampled_regions * POSITIVE_REGIONS)  # regions of objects come first
        masks = apply(pyramid, regions[:, :most], method="masks")
        found["mask_loss"] = mask_loss(masks, regions[:, :most], match[:, :most], chosen[:, :most], batch)
        return found, updated.get("batch_stats", batch_stats)

    return Loss(means, dict.fromkeys(_NAMES, 1.0))


def proposal_losses(rpn: RPNOutput, batch: InstanceBatch, keys: Key[Array, " B"], count: int) -> Means:
    """Whether `count` anchors of each image are objects, and where the objects are.

    Both are sums over the anchors of all images, divided by their number.
    """
    anchors = jnp.concatenate(rpn.anchors)
    logits, deltas = jnp.concatenate(rpn.logits, 1), jnp.concatenate(rpn.deltas, 1)

    def of_image(
        logits: jax.Array, deltas: jax.Array, boxes: jax.Array, used: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        match = match_boxes(anchors, boxes, used, *ANCHOR_OVERLAP, every_object=True)
        places, chosen = sample_boxes(match, key, count, POSITIVE_ANCHORS)
        match = match[places]
        is_object = chosen & (match >= 0)
        objectness = optax.sigmoid_binary_cross_entropy(logits[places], is_object)
        wanted = encode_boxes(boxes[match], anchors[places], RPN_WEIGHTS)
        shift = smooth_l1(deltas[places] - wanted, _PROPOSAL_BETA).sum(-1)
        return (objectness * chosen).sum(), (shift * is_object).sum(), chosen.sum()

    sums = jax.vmap(of_image)(logits, deltas, batch["boxes"], batch["used"], keys)
    objectness, shift, number = (x.sum() for x in sums)
    return {"objectness_loss": Mean(objectness, number), "proposal_loss": Mean(shift, number)}


def _sampled_regions(
    regions: Float32[Array, "n 4"],
    used: Bool[Array, " n"],
    objects: Float32[Array, "N 4"],
    valid: Bool[Array, " N"],
    key: PRNGKeyArray,
    count: int,
) -> tuple[Float32[Array, "count 4"], Int32[Array, " count"], Bool[Array, " count"]]:
    """Regions of one image to train on, those of objects first; what they stand for; which were chosen."""
    match = match_boxes(regions, objects, valid, *REGION_OVERLAP, every_object=False)
    match = jnp.where(used, match, IGNORED)
    places, chosen = sample_boxes(match, key, count, POSITIVE_REGIONS)
    return regions[places], jnp.where(chosen, match[places], IGNORED), chosen


def box_losses(
    logits: Float32[Array, "B n logits"],
    deltas: Float32[Array, "B n classes 4"],
    regions: Float32[Array, "B n 4"],
    match: Int32[Array, "B n"],
    chosen: Bool[Array, "B n"],
    batch: InstanceBatch,
) -> Means:
    """What regions are, and where their objects are: sums over the regions, divided by their number."""
    is_object = match >= 0
    objects = jnp.maximum(match, 0)
    classes = jnp.take_along_axis(batch["classes"], objects, 1)
    wanted = jnp.where(is_object, classes + 1, 0)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
    boxes = jnp.take_along_axis(batch["boxes"], objects[..., None], 1)
    of_class = jnp.take_along_axis(deltas, classes[..., None, None], 2)[:, :, 0]
    shift = smooth_l1(of_class - encode_boxes(boxes, regions, BOX_WEIGHTS), _BOX_BETA).sum(-1)
    number = chosen.sum()
    return {
        "class_loss": Mean((entropy * chosen).sum(), number),
        "box_loss": Mean((shift * is_object).sum(), number),
    }


def mask_loss(
    logits: Float32[Array, "B n cells cells classes"],
    regions: Float32[Array, "B n 4"],
    match: Int32[Array, "B n"],
    chosen: Bool[Array, "B n"],
    batch: InstanceBatch,
) -> Mean:
    """Cross-entropy of the pixels of the regions that stand for objects, in their class's mask: its mean."""
    is_object = chosen & (match >= 0)
    objects = jnp.maximum(match, 0)
    classes = jnp.take_along_axis(batch["classes"], objects, 1)
    of_class = jnp.take_along_axis(logits, classes[..., None, None, None], -1)[..., 0]
    masks = jnp.take_along_axis(batch["masks"], objects[..., None, None], 1)
    boxes = jnp.take_along_axis(batch["boxes"], objects[..., None], 1)
    wanted = region_masks(masks, boxes, regions, of_class.shape[-1])
    entropy = optax.sigmoid_binary_cross_entropy(of_class, wanted).mean((-2, -1))
    return Mean((entropy * is_object).sum(), is_object.sum())


def region_masks(
    masks: UInt8[Array, "*n M M"],
    boxes: Float32[Array, "*n 4"],
    regions: Float32[Array, "*n 4"],
    cells: int,
) -> Bool[Array, "*n cells cells"]:
    """Which cells of a region belong to an object: those whose centre the object covers by a half or more.

    Args:
      masks: fractions, of 255, of the cells of an object's box.
      boxes: of the objects.
      regions: where to look.
      cells: of a region, on each axis.
    """
    size = masks.shape[-1]

    def weights(axis: int) -> Float32[Array, "*n cells M"]:
        """Of the mask's cells on one axis, for the centre of each of the region's: linear interpolation."""
        low, high = regions[..., axis, None], regions[..., axis + 2, None]
        centres = low + (high - low) * (jnp.arange(cells) + 0.5) / cells
        start, side = boxes[..., axis, None], boxes[..., axis + 2, None] - boxes[..., axis, None]
        places = (centres - start) / jnp.maximum(side, 1e-3) * size - 0.5
        return jnp.maximum(1 - jnp.abs(places[..., None] - jnp.arange(size)), 0)

    fractions = jnp.einsum(
        "...im,...mn,...jn->...ij", weights(1), masks.astype(jnp.float32) / 255, weights(0)
    )
    return fractions >= 0.5


def smooth_l1(x: Num[Array, "*n"], beta: float) -> Float32[Array, "*n"]:
    """x^2 / (2 beta) up to |x| = beta, then |x| - beta / 2."""
    size = jnp.abs(x)
    return jnp.where(size < beta, size**2 / (2 * beta), size - beta / 2)
