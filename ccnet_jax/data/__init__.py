"""Data sets and the input pipeline. Nothing here imports jax: it runs in worker processes."""
