"""PNG files: what is in them, and what a failure leaves."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from ccnet_jax import figures
from ccnet_jax.common.errors import UserError, write_whole


def test_images_are_saved_as_they_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    figures.save_image(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new/a.png"))[..., ::-1], image)
    figures.save_grey(tmp_path / "new" / "b.png", image[..., 0])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new/b.png"), -1), image[..., 0])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.png", "b.png"}


@pytest.mark.parametrize("count", [2, 19, 150, 254])
def test_label_files_hold_the_ids_and_show_the_colours(tmp_path, count):
    palette = np.random.default_rng(0).integers(0, 256, (count, 3), np.uint8)
    label = np.append(np.arange(count), 255)[None].astype(np.int32)
    numbers = np.random.default_rng(1).permutation(255)[:count].tolist()
    figures.save_labels(tmp_path / "new" / "a.png", label, palette, numbers)
    with Image.open(tmp_path / "new" / "a.png") as file:
        assert file.mode == "P"
        assert np.array(file)[0].tolist() == [*numbers, 255]
        colours = np.array(file.convert("RGB"))[0]
    np.testing.assert_array_equal(colours[:-1], palette)
    assert (colours[-1] > 100).all()  # void is not black


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.png"
    figures.save_image(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(UserError, match="a.png cannot be written .No space left on device."):
        figures.save_image(path, np.ones((4, 4, 3), np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.png", tmp_path):
        with pytest.raises(UserError, match="cannot be written .*; choose another place"):
            figures.save_labels(path, np.zeros((2, 2), np.uint8), np.zeros((1, 3), np.uint8), [0])


def test_text_and_bytes_are_written(tmp_path):
    write_whole(tmp_path / "a.txt", "straße")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "straße"
    write_whole(tmp_path / "a.txt", b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
