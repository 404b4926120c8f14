"""Testing as papers do: test modes, predictions, scores, what a pixel attends to."""
