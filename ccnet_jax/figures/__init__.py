"""Figures of images, labels, predictions and attention, from arrays alone; PNG files of them."""

from ccnet_jax.figures.canvas import colourize, hatching, overlay, resize, resized_label, tints
from ccnet_jax.figures.panels import (
    attention_figure,
    comparison,
    contact_sheet,
    image_sheet,
    instance_comparison,
    instance_overlay,
    legend,
    prediction_figure,
    side_by_side,
)
from ccnet_jax.figures.png import image_png, labels_png, save_grey, save_image, save_labels

__all__ = [
    "attention_figure",
    "colourize",
    "comparison",
    "contact_sheet",
    "hatching",
    "image_png",
    "image_sheet",
    "instance_comparison",
    "instance_overlay",
    "labels_png",
    "legend",
    "overlay",
    "prediction_figure",
    "resize",
    "resized_label",
    "save_grey",
    "save_image",
    "save_labels",
    "side_by_side",
    "tints",
]
