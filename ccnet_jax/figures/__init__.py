"""Pictures of what a network sees, predicts and attends to; needs arrays only."""

from ccnet_jax.figures.drawing import (
    attention_figure,
    colourize,
    comparison,
    contact_sheet,
    legend,
    overlay,
    prediction_figure,
    save_grey,
    save_labels,
    save_picture,
    side_by_side,
)

__all__ = [
    "attention_figure",
    "colourize",
    "comparison",
    "contact_sheet",
    "legend",
    "overlay",
    "prediction_figure",
    "save_grey",
    "save_labels",
    "save_picture",
    "side_by_side",
]
