"""Upsampling by matrices, a block of rows at a time, against `resize_bilinear`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import export

from ccnet_jax.common.labels import VOID
from ccnet_jax.evaluation import upsampling
from ccnet_jax.models.layers import resize_bilinear
from ccnet_jax.models.upsampling import bilinear_weights, resizing_matrix, upsampling_matrices

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


@given(st.integers(1, 4), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 256))
def test_blocks_cover_all_rows_and_stay_small(batch, height, width, num_classes):
    count, rows = upsampling.row_blocks((batch, height, width, 3), num_classes)
    assert count * rows >= height
    bytes_of_a_row = batch * width * num_classes * 4
    assert (rows - 1) * bytes_of_a_row <= upsampling.BLOCK_BYTES


@pytest.mark.parametrize("align_corners", [False, True])
def test_largest_and_sum_of_upsampled_logits(align_corners):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 6, 5)), jnp.float32)
    wanted = resize_bilinear(logits, (13, 11), align_corners)
    matrices = upsampling_matrices([(4, 6), (13, 11)], align_corners, (3, 5))
    largest = upsampling.largest_upsampled(logits, matrices)
    assert largest.shape == (2, 15, 11)
    assert largest.dtype == jnp.uint8
    np.testing.assert_array_equal(largest[:, :13], wanted.argmax(-1))
    for wrong in (jnp.nan, jnp.inf):  # of one class, at one place of the first picture
        spoilt = upsampling.largest_upsampled(logits.at[0, 1, 2, 3].set(wrong), matrices)[:, :13]
        assert (spoilt[0] == VOID).any()
        np.testing.assert_array_equal(spoilt[1], largest[1, :13])
    total = upsampling.add_upsampled(jnp.ones((2, 3, 5, 11, 5)), logits, matrices, probabilities=False)
    np.testing.assert_allclose(total.reshape(2, 15, 11, 5)[:, :13], 1 + wanted, atol=1e-5)


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
