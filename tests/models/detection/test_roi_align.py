import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccnet_jax.models.detection.roi_align import level_of, roi_align

STRIDES = (4, 8)


def by_definition(levels, boxes, cells):
    """Mask R-CNN's definition, a sample at a time."""
    out = np.zeros((*boxes.shape[:2], cells, cells, levels[0].shape[-1]), np.float64)
    for b, n in np.ndindex(boxes.shape[:2]):
        level = int(level_of(jnp.asarray(boxes[b, n]), len(levels)))
        feature = np.asarray(levels[level][b], np.float64)
        x0, y0, x1, y1 = boxes[b, n].astype(np.float64) / STRIDES[level]
        width, height = max(x1 - x0, 1) / cells, max(y1 - y0, 1) / cells
        for i, j in np.ndindex(cells, cells):
            for dy in (0.25, 0.75):
                for dx in (0.25, 0.75):
                    out[b, n, i, j] += (
                        interpolated(feature, y0 + (i + dy) * height, x0 + (j + dx) * width) / 4
                    )
    return out


def interpolated(feature, y, x):
    height, width, channels = feature.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(channels)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    i, j = int(y), int(x)
    below, right = min(i + 1, height - 1), min(j + 1, width - 1)
    dy, dx = y - i, x - j
    top = (1 - dx) * feature[i, j] + dx * feature[i, right]
    bottom = (1 - dx) * feature[below, j] + dx * feature[below, right]
    return (1 - dy) * top + dy * bottom


@pytest.fixture(scope="module")
def pyramid():
    """Two levels of images of 60 x 92, and regions: inside, across the edges, outside, without area."""
    rng = np.random.default_rng(0)
    levels = [jnp.asarray(rng.normal(size=(2, h, w, 3)), jnp.float32) for h, w in ((15, 23), (8, 12))]
    boxes = [
        [[3.2, 5.1, 40.7, 31.9], [0, 0, 92, 60], [-9, 20, 30, 70], [50, 50, 50, 50]],
        [[88, 1, 130, 20], [200, 200, 260, 230], [10.5, 3.3, 11.5, 58], [0, 0, 600, 500]],
    ]
    return levels, np.array(boxes, np.float32)


@pytest.mark.parametrize("cells", [2, 7])
def test_regions_have_the_features_of_the_definition(pyramid, cells):
    levels, boxes = pyramid
    out = jax.jit(roi_align, static_argnums=(2, 3))(levels, jnp.asarray(boxes), cells, STRIDES)
    np.testing.assert_allclose(out, by_definition(levels, boxes, cells), atol=1e-5)


def test_the_gradient_is_that_of_a_linear_function(pyramid):
    """<roi_align(x), g> = <x, gradient of g>, exactly, for any x: it is linear in the features."""
    levels, boxes = pyramid
    boxes = jnp.asarray(boxes)
    g = jnp.asarray(np.random.default_rng(1).normal(size=(*boxes.shape[:2], 3, 3, 3)), jnp.float32)
    value = jax.jit(lambda levels: (roi_align(levels, boxes, 3, STRIDES) * g).sum())
    gradient = jax.jit(jax.grad(value))(levels)
    moved = [x + jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape) for x in levels]
    change = sum(float((d * (b - a)).sum()) for d, a, b in zip(gradient, levels, moved, strict=True))
    np.testing.assert_allclose(change, value(moved) - value(levels), rtol=1e-4)
    assert all(jnp.abs(d).max() > 0 for d in gradient)


def test_no_gradient_flows_into_regions(pyramid):
    levels, boxes = pyramid
    gradient = jax.jit(jax.grad(lambda boxes: roi_align(levels, boxes, 2, STRIDES).sum()))
    assert not gradient(jnp.asarray(boxes)).any()


@pytest.mark.parametrize(
    ("side", "level"), [(5, 0), (111, 0), (112, 1), (224, 2), (447, 2), (448, 3), (9999, 3)]
)
def test_a_region_of_224_pixels_belongs_to_stride_16(side, level):
    assert level_of(jnp.array([10.0, 20, 10 + side, 20 + side]), 4) == level


def test_bfloat16_features_are_summed_in_float32(pyramid):
    levels, boxes = pyramid
    low = [x.astype(jnp.bfloat16) for x in levels]
    out = jax.jit(roi_align, static_argnums=(2, 3))(low, jnp.asarray(boxes), 7, STRIDES)
    assert out.dtype == jnp.bfloat16
    wanted = by_definition([x.astype(jnp.float32) for x in low], boxes, 7)
    np.testing.assert_allclose(out.astype(jnp.float32), wanted, atol=0.02)
