"""Tiles: the same pixels as whole images, whatever window training asks for, and no other tiles decoded."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccnet_jax.common.errors import UserError
from ccnet_jax.data import pipeline
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.images import decode_image, decode_label
from ccnet_jax.data.tiles import SIDE, TiledImage, image_tiles, label_tiles
from tests.miniatures import scene

pytestmark = pytest.mark.slow


def random_pair(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    label = np.kron(rng.integers(0, 5, (height // 9 + 1, width // 9 + 1)), np.ones((9, 9)))
    return image, label[:height, :width].astype(np.uint8)


def tiled(image, label, side, jpeg=None):
    """The pair in tiles; what is not decoded is noise, other than where memory was not used before."""
    sample = {
        "image": TiledImage(image_tiles(image, jpeg, side), image.shape, side, decode_image, "a"),
        "label": TiledImage(label_tiles(label, side), label.shape, side, decode_label, "b"),
    }
    for feature in sample.values():
        feature._pixels[:] = np.random.default_rng(1).integers(0, 256, feature.shape)
    return sample


def counted(decode, calls):
    def decoded(data, name):
        calls.append(name)
        return decode(data, name)

    return decoded


@pytest.mark.parametrize("size", [(1, 1), (128, 128), (129, 255), (64, 300), (257, 127)])
def test_a_whole_image_survives(size):
    image, label = random_pair(*size)
    images = tiled(image, label, SIDE)
    np.testing.assert_array_equal(images["image"].whole(), image)
    np.testing.assert_array_equal(images["label"].whole(), label)


AUGMENTATIONS = st.fixed_dictionaries(
    {
        "crop": st.none() | st.tuples(st.integers(32, 160), st.integers(32, 160)),
        "cat_max_ratio": st.sampled_from([0.3, 0.75, 1.0]),
        "flip": st.booleans(),
        "distort": st.booleans(),
    }
)
RESIZINGS = st.one_of(
    st.just({}),
    st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)).map(lambda pair: {"scale": tuple(sorted(pair))}),
    st.lists(st.integers(32, 200), min_size=1, max_size=3).map(lambda sides: {"short_sides": tuple(sides)}),
    st.tuples(st.integers(32, 300), st.integers(32, 300)).map(lambda box: {"resize": box}),
)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.sampled_from([7, 16, 33]),
    RESIZINGS,
    AUGMENTATIONS,
    st.integers(0, 2**31),
)
def test_crops_are_those_of_the_whole_image_bit_for_bit(size, side, resizing, augmentation, seed):
    image, label = random_pair(*size, seed)
    data = DataConfig(**resizing, **augmentation)
    whole, part = (
        pipeline.augment(sample, np.random.default_rng(seed), data)
        for sample in ({"image": image, "label": label}, tiled(image, label, side))
    )
    np.testing.assert_array_equal(part["image"], whole["image"])
    np.testing.assert_array_equal(part["label"], whole["label"])


@pytest.mark.parametrize(("scale", "most"), [(1.0, 4), (2.0, 4), (0.5, 16)])
def test_only_what_a_crop_needs_is_decoded(scale, most):
    """Of 100 tiles of 32x32; a crop is 16 to 64 pixels wide in the image, and resizing reads its border."""
    image, label = random_pair(320, 320)
    for seed in range(20):
        images, calls = tiled(image, label, 32), {"image": [], "label": []}
        for key, decode in (("image", decode_image), ("label", decode_label)):
            images[key]._decode = counted(decode, calls[key])
        data = DataConfig(scale=(scale, scale), crop=(32, 32))
        pipeline.augment(images, np.random.default_rng(seed), data)
        assert 1 <= len(calls["image"]) <= most
        assert 1 <= len(calls["label"]) <= most


def test_windows_that_are_tried_for_their_classes_decode_labels_alone_and_each_tile_once():
    image, label = random_pair(320, 320)
    images, calls = tiled(image, 0 * label, 32), {"image": [], "label": []}
    for key, decode in (("image", decode_image), ("label", decode_label)):
        images[key]._decode = counted(decode, calls[key])
    pipeline.augment(images, np.random.default_rng(0), DataConfig(crop=(32, 32), cat_max_ratio=0.5))
    assert len(calls["image"]) <= 4 < len(calls["label"]) == len(set(calls["label"]))


def test_jpeg_tiles_lose_a_little_of_images_and_nothing_of_labels():
    image, label = scene(0, 200, 300)
    images = tiled(image, label, SIDE, jpeg=95)
    difference = np.abs(images["image"].whole().astype(int) - image)
    assert 0 < difference.mean() < 4
    np.testing.assert_array_equal(images["label"].whole(), label)
    sizes = [sum(map(len, image_tiles(image, quality))) for quality in (None, 95, 50)]
    assert sizes[0] > sizes[1] > sizes[2]


def qoi(tiles):
    return TiledImage(tiles, (200, 300, 3), SIDE, decode_image, "image of record 3 in FILE")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda tile: tile[:100], r"tile 4 of image of record 3 in FILE is corrupt .*\(100 bytes\)"),
        (lambda tile: tile[:-1], "tile 4 of image of record 3 in FILE is corrupt"),
        (lambda tile: tile[:4] + tile[-8:], "tile 4 of image of record 3 in FILE is corrupt"),
        (lambda tile: b"", "tile 4 of image of record 3 in FILE is empty"),
        (lambda tile: b"something else", "tile 4 of image of record 3 in FILE is corrupt or not an image"),
        (
            lambda tile: image_tiles(np.zeros((60, 128, 3), np.uint8))[0],
            "tile 4 .* is 128x60 pixels, and its place in the image is 128x72; prepare the data set again",
        ),
    ],
)
def test_a_corrupt_tile_is_one_message_when_it_is_needed(spoil, words):
    tiles = image_tiles(scene(0, 200, 300)[0])
    tiles[4] = spoil(tiles[4])
    image = qoi(tiles)
    image.decode(slice(0, 128), slice(0, 300))
    with pytest.raises(UserError, match=words) as error:
        image.whole()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("quality", [None, 90])
def test_every_truncated_tile_is_found(quality):
    image, label = scene(0, 40, 50)
    for tile, decode in (
        (image_tiles(image, quality)[0], decode_image),
        (label_tiles(label)[0], decode_label),
    ):
        for length in itertools.chain(range(0, len(tile) - 20, 37), [len(tile) - 13]):
            with pytest.raises(UserError):
                decode(tile[:length], "a")


def test_a_missing_tile_is_one_message():
    tiles = image_tiles(scene(0, 200, 300)[0])
    with pytest.raises(UserError, match="FILE has 5 tiles, and an image of 300x200 pixels has 6; prepare"):
        qoi(tiles[:-1])


@pytest.mark.parametrize(
    ("shape", "side", "words"),
    [
        ((100_000, 100_000, 3), SIDE, "has by its header 100000 x 100000, more than 178,956,970 pixels"),
        ((0, 300, 3), SIDE, "is 300x0 pixels in tiles of 128; prepare the data set again"),
        ((200, 300, 3), 0, "is 300x200 pixels in tiles of 0"),
    ],
)
def test_sizes_that_no_record_can_have(shape, side, words):
    with pytest.raises(UserError, match=words):
        TiledImage([], shape, side, decode_image, "image of record 3 in FILE")
