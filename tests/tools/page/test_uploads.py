"""What is kept of images, and for how long."""

import numpy as np
import pytest

from ccnet_jax.tools.page.uploads import Gone, Limits, Store, TooLarge, Upload, read_upload
from tests.data.test_images import png


def test_the_longest_unused_goes_first():
    store = Store("this thing", most=2)
    first, second = store.put("a"), store.put("b")
    assert first != second
    assert len(first) >= 16  # nobody guesses it
    assert store.get(first) == "a"
    store.put("c", "key")
    assert store.get(first) == "a"
    assert store.find(second) is None
    with pytest.raises(Gone, match="this thing is not kept here any more; choose it again"):
        store.get(second)
    store.put("d", "key")
    assert store.get("key") == "d"


def test_images_are_shrunk_and_never_enlarged():
    for size, side, wanted in (
        ((30, 40), 64, (30, 40)),
        ((300, 400), 100, (75, 100)),
        ((5000, 2), 100, (100, 1)),
    ):
        image = Upload.of(np.zeros((*size, 3), np.uint8), side)
        assert image.pixels.shape == (*wanted, 3)
        assert image.own_size == size


def test_nothing_is_decoded_before_its_size_is_known(monkeypatch):
    monkeypatch.setattr("ccnet_jax.tools.page.uploads.decode_image", None)
    with pytest.raises(TooLarge, match="1001 x 1000 pixels, more than the 1 million pixels"):
        read_upload(png(1001, 1000), Limits(megapixels=1))
