"""Bilinear resizing against its formula, and its matrices against `resize_bilinear`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import export

from ccnet_jax.models.resize import bilinear_weights, resize_bilinear, resizing_matrix

sides = st.lists(st.integers(1, 60), min_size=2, max_size=3).map(tuple)


@given(sides, st.booleans())
@example((1, 5), True)
@example((5, 1), True)
def test_rows_of_a_resizing_matrix_are_weights(sides, align_corners):
    matrix = resizing_matrix(sides, align_corners)
    assert matrix.shape == (sides[-1], sides[0])
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)


@given(st.integers(1, 60), st.booleans())
def test_at_equal_sizes_the_matrix_is_the_identity(side, align_corners):
    matrix = resizing_matrix((side, side, side), align_corners)
    np.testing.assert_array_equal(matrix, np.eye(side))


@settings(max_examples=10, deadline=None)
@given(st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40)), st.booleans())
def test_the_matrix_resizes_as_resize_bilinear_does(sides, align_corners):
    column = np.random.default_rng(0).normal(size=(1, sides[0], 1, 1)).astype(np.float32)
    wanted = jnp.asarray(column)
    for side in sides[1:]:
        wanted = resize_bilinear(wanted, (side, 1), align_corners)
    matrix = resizing_matrix(sides, align_corners)
    np.testing.assert_allclose(matrix @ column[0, :, 0], wanted[0, :, 0], atol=1e-4)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("align_corners", [False, True])
def test_weights_of_open_sides_are_those_of_numbers_in_every_bit(align_corners):
    scope = export.SymbolicScope()
    shapes = [
        jax.ShapeDtypeStruct(export.symbolic_shape(side, scope=scope), jnp.uint8) for side in ("side", "out")
    ]
    program = export.export(jax.jit(lambda x, y: bilinear_weights(x.shape[0], y.shape[0], align_corners)))(
        *shapes
    )
    for side, out in ((8, 64), (6, 47), (7, 49), (97, 769)):
        found = program.call(np.zeros(side, np.uint8), np.zeros(out, np.uint8))
        np.testing.assert_array_equal(found, bilinear_weights(side, out, align_corners))


def bilinear_by_hand(x, height, width, align_corners):
    """Reads input coordinate by coordinate as PyTorch documents `interpolate`."""
    out = np.zeros((height, width))
    rows, columns = x.shape
    for i in range(height):
        for j in range(width):
            where = []
            for at, side, size in ((i, rows, height), (j, columns, width)):
                if align_corners:
                    position = at * (side - 1) / (size - 1) if size > 1 else 0.0
                else:
                    position = max((at + 0.5) * side / size - 0.5, 0.0)
                low = min(int(position), side - 1)
                where.append((low, min(low + 1, side - 1), position - low))
            (y0, y1, v), (x0, x1, u) = where
            top, bottom = (1 - u) * x[y0, x0] + u * x[y0, x1], (1 - u) * x[y1, x0] + u * x[y1, x1]
            out[i, j] = (1 - v) * top + v * bottom
    return out


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "large"), [((5, 7), (33, 50)), ((4, 4), (32, 32)), ((1, 3), (8, 9)), ((3, 1), (5, 6))]
)
def test_bilinear_resizing_equals_the_formula(small, large, align_corners):
    x = np.random.default_rng(0).standard_normal(small).astype(np.float32)
    got = resize_bilinear(jnp.asarray(x)[None, :, :, None], large, align_corners)[0, :, :, 0]
    np.testing.assert_allclose(got, bilinear_by_hand(x, *large, align_corners), rtol=1e-4, atol=1e-5)
