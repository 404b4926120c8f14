"""Data sets and the input pipeline, for worker processes: NumPy and OpenCV, no computation with jax."""
