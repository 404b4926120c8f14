"""Figures of pictures, labels, predictions and attention, from arrays alone; PNG files of them."""

from ccnet_jax.figures.attention import attention_figure
from ccnet_jax.figures.colours import colourize, hatching, overlay, tints
from ccnet_jax.figures.legends import legend
from ccnet_jax.figures.panels import comparison, prediction_figure, side_by_side
from ccnet_jax.figures.png import labels_png, picture_png, save_grey, save_labels, save_picture
from ccnet_jax.figures.sheets import contact_sheet, picture_sheet

__all__ = [
    "attention_figure",
    "colourize",
    "comparison",
    "contact_sheet",
    "hatching",
    "labels_png",
    "legend",
    "overlay",
    "picture_png",
    "picture_sheet",
    "prediction_figure",
    "save_grey",
    "save_labels",
    "save_picture",
    "side_by_side",
    "tints",
]
