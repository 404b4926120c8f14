"""The legend: what occurs, in its colours, inside the canvas."""

import numpy as np
import pytest

from ccnet_jax import figures

WHITE = 255


def occurs(canvas, colour):
    return (canvas.reshape(-1, 3) == colour).all(1).any()


def test_it_holds_what_occurs_and_nothing_else():
    palette = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    canvas = figures.legend(("road", "sky", "tree"), palette, 400, np.array([0, 2]))
    assert [occurs(canvas, colour) for colour in palette] == [True, False, True]


def test_void_is_hatched_beside_a_black_class():
    palette = np.zeros((1, 3), np.uint8)
    black = figures.legend(("background",), palette, 400, np.array([0]))
    void = figures.legend(("background",), palette, 400, np.array([255]))
    both = figures.legend(("background",), palette, 400, np.array([0, 255]))
    assert (black[4:20, 4:20] == 0).all()
    np.testing.assert_array_equal(void[4:20, 4:20], figures.hatching(16, 16))
    np.testing.assert_array_equal(both[4:20, 4:20], black[4:20, 4:20])
    starts = [x for x in range(4, 380) if (both[4:20, x : x + 16] == figures.hatching(16, 16)).all()]
    assert len(starts) == 1


@pytest.mark.parametrize("width", [60, 400, 2000])
def test_150_long_names_stay_inside_the_canvas(width):
    names = tuple(f"class {i} with a name of very many words, and its synonyms" for i in range(150))
    palette = np.random.default_rng(0).integers(0, 128, (150, 3), np.uint8)
    canvas = figures.legend(names, palette, width, np.arange(150))
    assert canvas.shape[1] == width
    assert (canvas[:, -3:] == WHITE).all()  # nothing is cut off at the right,
    assert (canvas[-3:] == WHITE).all()  # or at the bottom
    assert all(occurs(canvas, colour) for colour in palette)


def test_where_nothing_occurs_it_is_empty():
    canvas = figures.legend(("road",), np.zeros((1, 3), np.uint8), 400, np.array([], np.uint8))
    assert canvas.shape[1] == 400
    assert (canvas == WHITE).all()
