import numpy as np
import pytest

from ccnet_jax.data.datasets import cityscapes
from ccnet_jax.data.sources import Location
from experiments import data_throughput
from experiments.data_throughput import FORMS
from tests.miniatures import write_cityscapes

REPORT = {
    "samples_per_second_and_worker": {
        "1": {
            "tiles": {"rate": 50.24, "ratio": 4.51, "ratios": [4.4, 4.51, 4.6]},
            "folder": {"rate": 16.5, "ratio": 1.512, "ratios": [1.4, 1.512, 1.6]},
            "opencv": {"rate": 11.1, "ratio": 1.0, "ratios": [1.0, 1.0, 1.0]},
        }
    },
    "megabytes_an_image": {"tiles": 3.7, "folder": 2.36, "opencv": 2.36},
    "milliseconds": {"stack": {"tiles": 0.06, "folder": 0.06, "opencv": 0.04}},
    "storage": {"QOI, tiles of 128": {"megabytes": 3.66, "fraction": 0.29, "decode": 3.5, "encode": 17.3}},
    "decoders": {"png": {"imagecodecs": 40.8, "Pillow": 76.2}},
}


def test_tables():
    tables = data_throughput.tables(REPORT)
    assert "| 1 worker | 50.2 (4.51x) | 16.5 (1.51x) | 11.1 |" in tables["rates"]
    assert "on disk | 3.70 | 2.36 | 2.36 |" in tables["rates"]
    assert "| stack | 0.1 | 0.1 | 0.0 |" in tables["stages"]
    assert "| QOI, tiles of 128 | 3.66 | 29 | 3.5 | 17 |" in tables["storage"]
    assert tables["decoders"].splitlines()[0] == "| ms a 2048x1024 image | imagecodecs | Pillow |"
    assert "| PNG | 40.8 | 76.2 |" in tables["decoders"]


@pytest.mark.parametrize("part", [form.part for form in FORMS.values()])
def test_the_parts_that_a_crop_needs(part):
    down, across = 1024 // part[0], 2048 // part[1]
    for seed in range(20):
        needed = data_throughput.needed_parts(part, np.random.default_rng(seed))
        grid = np.zeros(down * across, bool)
        grid[needed] = True  # an error where a number is too large
        rows, columns = np.nonzero(grid.reshape(down, across))
        height, width = (np.ptp(x) + 1 for x in (rows, columns))
        assert height * width == len(needed) == len(set(needed))  # a rectangle
        assert min(height * part[0] / 256, width * part[1] / 512) >= 1  # the smallest part of an image


def test_what_a_form_costs():
    images = [np.zeros((1024, 2048, 3), np.uint8)]
    whole, tiles = (
        data_throughput.measure_storage(images, FORMS[name], crops=10)
        for name in ("QOI, tiles of 256", "QOI, tiles of 128 (`--tiles`)")
    )
    assert 0.1 < tiles["fraction"] < whole["fraction"] < 1
    assert whole["megabytes"] < tiles["megabytes"] < 1


def test_a_folder_of_the_first_images(tmp_path):
    write_cityscapes(tmp_path / "all")
    data_throughput.link_images(tmp_path / "two", str(tmp_path / "all"), 2)
    whole, two = (
        cityscapes.open_split(Location(dir=str(tmp_path / name)), "train") for name in ("all", "two")
    )
    assert len(two) == 2
    assert two.read(1) == whole.read(1)
    size = sum(len(data) for i in range(2) for data in two.read(i))
    assert data_throughput.megabytes(tmp_path / "two") == size / 1e6
