"""Figures of pictures, labels, predictions and attention, from arrays alone; PNG files of them."""

from ccnet_jax.figures.canvas import colourize, hatching, overlay, resized, resized_label, tints
from ccnet_jax.figures.panels import (
    attention_figure,
    comparison,
    contact_sheet,
    instance_comparison,
    instance_overlay,
    legend,
    picture_sheet,
    prediction_figure,
    side_by_side,
)
from ccnet_jax.figures.png import labels_png, picture_png, save_grey, save_labels, save_picture

__all__ = [
    "attention_figure",
    "colourize",
    "comparison",
    "contact_sheet",
    "hatching",
    "instance_comparison",
    "instance_overlay",
    "labels_png",
    "legend",
    "overlay",
    "picture_png",
    "picture_sheet",
    "prediction_figure",
    "resized",
    "resized_label",
    "save_grey",
    "save_labels",
    "save_picture",
    "side_by_side",
    "tints",
]
