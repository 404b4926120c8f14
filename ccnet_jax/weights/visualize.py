"""What a notebook draws: predictions, and what a pixel attends to."""

from ccnet_jax.figures import attention_figure, colourize, comparison, overlay, prediction_figure
from ccnet_jax.weights.inference import attention_map

__all__ = ["attention_figure", "attention_map", "colourize", "comparison", "overlay", "prediction_figure"]
