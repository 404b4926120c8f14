import cv2
import numpy as np
import pytest

from ccnet_jax.data.datasets import camvid as data_set
from ccnet_jax.data.sources import Location
from ccnet_jax.weights import inference
from experiments import camvid
from tests import helpers
from tests.experiments import reports
from tests.miniatures import write_camvid

pytestmark = pytest.mark.slow


def test_the_table_says_whether_rcca_wins():
    table = camvid.tables(reports.camvid())["scores"]
    assert "| none | 40.0 | 40.0 | 90.0 |" in table
    assert "| RCCA, 2 loops | 45.0 | 35.0 | 90.0 |" in table
    assert "5.0 points above (at one scale) and 5.0 points below (with several scales" in table
    assert "0.3 points below (at one scale)" in camvid.tables(reports.camvid(rcca=0.397))["scores"]


def test_every_class_has_a_row_and_a_class_that_does_not_occur_no_number():
    lines = camvid.tables(reports.camvid())["classes"].splitlines()
    assert lines[0] == "| IoU | none | RCCA, 2 loops | none, ms + flip | RCCA, 2 loops, ms + flip |"
    assert lines[2:] == ["| sky | 40.0 | 45.0 | 40.0 | 35.0 |", "| pole | - | - | - | - |"]


def test_networks_differ_in_their_context_alone():
    keys = {key for changes in camvid.NETWORKS.values() for key in changes}
    assert keys == {"model.context", "model.loops"}
    assert helpers.load_config(camvid.CONFIG).eval_every > 0


@pytest.mark.parametrize(("count", "chosen"), [(233, [38, 116, 194]), (6, [1, 3, 5]), (3, [0, 1, 2])])
def test_images_are_the_middles_of_equal_parts(count, chosen):
    assert camvid.chosen_images(count) == chosen


def test_the_pixel_is_of_the_rarest_class_and_nearest_to_the_centre():
    label = np.zeros((9, 9), np.uint8)
    label[0, :] = 2
    label[1, 7] = label[8, 8] = 1
    label[4, 4] = 255
    assert camvid.chosen_pixel(label, np.array([50, 5, 20, 1])) == (1, 7)  # 3 is rarer, and not there
    assert camvid.chosen_pixel(label, np.array([50, 50, 20])) == (0, 4)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random networks with and without RCCA."""
    folder = tmp_path_factory.mktemp("camvid")
    source = data_set.open_split(Location(dir=str(write_camvid(folder / "data", images=2))), "val")
    small = {"model__depth": 10, "model__width": 1 / 16}
    for context in ("none", "rcca"):
        config = helpers.load_config("demo", data__name="camvid", model__context=context, **small)
        helpers.write_run(folder / context, config, source)
    return source, inference.load(folder / "none"), inference.load(folder / "rcca")


def test_figures_show_each_number_of_loops_and_photographs_only_where_asked(models, tmp_path):
    source, baseline, rcca = models
    scenes = [camvid.scene(baseline, rcca, source, i, np.arange(11)) for i in range(2)]
    assert [x.name for x in scenes] == ["0", "1"]
    assert list(scenes[0].predictions) == ["0 loops (no context module)", "1 loop", "2 loops"]
    assert scenes[0].maps.shape == (2, 8, 12)
    widths = {}
    for photos in (False, True):
        camvid.draw(scenes, rcca, tmp_path / f"{photos}_", photos)
        loops = cv2.imread(str(tmp_path / f"{photos}_loops.png"))[..., ::-1]
        attention = cv2.imread(str(tmp_path / f"{photos}_attention.png"))[..., ::-1]
        widths[photos] = loops.shape[1]
        enlarged = np.repeat(np.repeat(source[0]["image"], 4, 0), 4, 1)
        assert holds(loops, enlarged) == photos
        assert holds(attention[:, : enlarged.shape[1]], enlarged, tolerance=0.1) == photos
    assert widths[True] > widths[False]  # a panel more


def holds(figure, image, tolerance=0.0):
    """Whether the image stands at the left of the figure, below a title of any height."""
    height, width = image.shape[:2]
    different = [
        (figure[top : top + height, :width] != image).any(-1).mean()
        for top in range(min(100, len(figure) - height))
    ]
    return min(different) <= tolerance
