"""Criss-cross attention from the paper's equations (1) and (2), one pixel after the other, in float64."""

import numpy as np


def criss_cross_loop(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    """query, key [B, H, W, D], value [B, H, W, C] -> [B, H, W, C]."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, height, width, _ = query.shape
    out = np.zeros(value.shape)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                cross = [(i, x) for i in range(height) if i != y] + [(y, j) for j in range(width)]
                energy = np.array([query[b, y, x] @ key[b, i, j] for i, j in cross])
                weight = np.exp(energy - energy.max())
                weight /= weight.sum()
                for (i, j), a in zip(cross, weight, strict=True):
                    out[b, y, x] += a * value[b, i, j]
    return out


def criss_cross_loop_gradients(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, upstream: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of sum(out * upstream): the chain rule of the same loop, written out."""
    query, key, value, upstream = (np.asarray(x, np.float64) for x in (query, key, value, upstream))
    batch, height, width, _ = query.shape
    d_query, d_key, d_value = np.zeros(query.shape), np.zeros(key.shape), np.zeros(value.shape)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                cross = [(i, x) for i in range(height) if i != y] + [(y, j) for j in range(width)]
                energy = np.array([query[b, y, x] @ key[b, i, j] for i, j in cross])
                weight = np.exp(energy - energy.max())
                weight /= weight.sum()
                d_weight = np.array([upstream[b, y, x] @ value[b, i, j] for i, j in cross])
                d_energy = weight * (d_weight - (weight * d_weight).sum())
                for (i, j), a, d in zip(cross, weight, d_energy, strict=True):
                    d_value[b, i, j] += a * upstream[b, y, x]
                    d_query[b, y, x] += d * key[b, i, j]
                    d_key[b, i, j] += d * query[b, y, x]
    return d_query, d_key, d_value
