"""Properties that hold for all classes, label maps and sizes."""

import io

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ccnet_jax.common.labels import VOID, Classes, numbered_names, numbered_palette
from ccnet_jax.data import transforms
from ccnet_jax.data.class_files import NamedClass, classes_of
from ccnet_jax.data.images import decode_indices, decode_label

FEW = settings(max_examples=30, deadline=None)
COUNTS = st.integers(2, 254)
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def png(pixels, palette=None):
    data, image = io.BytesIO(), Image.fromarray(pixels)
    if palette is not None:
        image = Image.frombytes("P", image.size, pixels.tobytes())
        image.putpalette(palette)
    image.save(data, "PNG")
    return data.getvalue()


@FEW
@given(COUNTS, SIZES, st.integers(0, 2**31))
def test_indices_survive_a_label_file(count, size, seed):
    classes = Classes(numbered_names(count), numbered_palette(count))
    label = np.random.default_rng(seed).integers(-1, count, size).astype(np.uint8)  # -1 is 255
    written = np.append(classes.numbers, [VOID] * (256 - count)).astype(np.uint8)[label]
    np.testing.assert_array_equal(decode_indices(classes, png(written), "a"), label)
    coloured = png(written, np.random.default_rng(seed).integers(0, 256, 768, np.uint8).tobytes())
    np.testing.assert_array_equal(decode_indices(classes, coloured, "a"), label)
    np.testing.assert_array_equal(decode_label(png(written.astype(np.uint16)), "a"), written)


@FEW
@given(st.sets(st.tuples(*[st.integers(0, 255)] * 3), min_size=3, max_size=30), SIZES, st.integers(0, 2**31))
def test_indices_survive_a_colour_image(colours, size, seed):
    *colours, void = sorted(colours)
    named = [NamedClass("void", void), *(NamedClass(f"c{i}", colour) for i, colour in enumerate(colours))]
    classes = classes_of(named, "test")
    label = np.random.default_rng(seed).integers(-1, len(colours), size).astype(np.uint8)
    table = np.array([*colours, *[void] * (256 - len(colours))], np.uint8)
    np.testing.assert_array_equal(decode_indices(classes, png(table[label]), "a"), label)


@FEW
@given(st.permutations(range(12)), st.integers(0, 3))
def test_numbers_are_the_inverse_of_label_ids(order, voids):
    named = [NamedClass("void" if i < voids else f"class {i}") for i in order]
    classes = classes_of(named, "test")
    np.testing.assert_array_equal(classes.label_ids[classes.numbers], np.arange(12 - voids))
    assert [named[number].name for number in classes.numbers] == list(classes.names)


SCALES = st.none() | st.tuples(st.floats(0.1, 4), st.floats(0.1, 4)).map(lambda pair: tuple(sorted(pair)))
BOXES = st.none() | st.tuples(st.integers(32, 4096), st.integers(32, 4096))
SHORT_SIDES = st.none() | st.lists(st.integers(32, 2048), min_size=1, max_size=4)


@FEW
@given(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), BOXES, SCALES, SHORT_SIDES, st.integers(0, 99))
def test_random_sizes_lie_between_the_possible_ones(size, box, scale, short_sides, seed):
    smallest, largest = transforms.possible_sizes(size, box, scale, short_sides)
    drawn = transforms.random_size(size, box, scale, short_sides, np.random.default_rng(seed))
    assert smallest <= drawn <= largest
    assert smallest[1] <= drawn[1] <= largest[1]


@FEW
@given(SIZES, SIZES, st.tuples(st.integers(1, 50), st.integers(1, 50)), st.integers(0, 99))
def test_windows_are_cut_from_the_resized_image(size, resized, crop, seed):
    rng = np.random.default_rng(seed)
    image, label = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 256, size, np.uint8)
    whole = transforms.label_window(label, resized, 0, 0, resized)
    window, cut = transforms.random_window(image, label, resized, crop, 1.0, rng)
    height, width = (min(sides) for sides in zip(crop, resized, strict=True))
    assert window.shape == (height, width, 3)
    assert cut.shape == (height, width)
    assert any(
        np.array_equal(cut, whole[y : y + height, x : x + width])
        for y in range(resized[0] - height + 1)
        for x in range(resized[1] - width + 1)
    )
    padded = transforms.pad(window, cut, crop)[1]
    assert padded.shape == tuple(crop)
