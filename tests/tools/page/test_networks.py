"""The networks of the page: ways to run them, networks that find instances, bounded compiled programs."""

import json
import struct

import jax
import numpy as np
import pytest

import ccnet_jax
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.datasets.streets_instances import StreetsInstances
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.tasks.instance_model import Instances
from ccnet_jax.tools.page.answers import Explorer, Question
from ccnet_jax.tools.page.networks import Network, Programs, Way
from ccnet_jax.tools.page.own_images import OwnImages
from ccnet_jax.tools.page.uploads import Limits, Upload
from tests import helpers
from tests.test_instances import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    """An explorer of a network that finds instances, however low their scores are."""
    folder = tmp_path_factory.mktemp("runs") / "finder"
    config = helpers.load_config("streets_instances", **SMALL)
    helpers.write_run(folder, config, StreetsInstances("val"))
    network = Network("finder", ccnet_jax.load(folder))
    return Explorer([network], OwnImages.of_run(str(folder)), Limits())


def test_scales_are_the_flavour_s(networks):
    model = networks[0].model
    assert networks[0]._in(Way(several=True)).mode == model.mode.ms_flip(FLAVOURS[model.network.flavour])
    assert networks[0]._in(Way()) is model
    assert networks[0].sizes(Way()) == 1
    assert networks[0].sizes(Way(several=True)) == 6
    weights, same = jax.tree.leaves(model), jax.tree.leaves(networks[0]._in(Way(3, True)))
    assert all(a is b for a, b in zip(weights, same, strict=True))


def test_instances(explorer):
    about = explorer.describe()["runs"][0]
    assert (about["labels_pixels"], about["choices"]) == (False, ())
    question = Question(explorer.add_own(0)["image"], 0, Way())
    answer = explorer.prediction(question)
    (length,) = struct.unpack_from("<I", answer)
    head = json.loads(answer[4 : 4 + length])
    found = explorer.networks[0].model.predict(StreetsInstances("val")[0]["image"])
    assert len(head["objects"]) == len(found.scores) > 0
    for told, label, score, box in zip(
        head["objects"], found.classes, found.scores, found.boxes, strict=True
    ):
        assert told["class"] == label
        assert told["score"] == pytest.approx(score)
        assert told["box"] == pytest.approx(box.tolist())
    numbers = np.frombuffer(answer[4 + length :], np.uint8).reshape(head["height"], head["width"])
    np.testing.assert_array_equal(numbers > 0, found.masks.any(0))
    assert explorer.overlay_png(question, 0.5)[:4] == b"\x89PNG"
    for ask, words in (
        (lambda: explorer.label_png(question), "finds instances, and labels no pixels"),
        (lambda: explorer.prediction(Question(question.image, 0, Way(2))), "offers none to choose"),
        (lambda: explorer.prediction(Question(question.image, 0, Way(None, True))), "at one scale"),
        (lambda: explorer.attention(question, (1, 1)), "label pixels with RCCA; finder is none"),
    ):
        with pytest.raises(UserError, match=words):
            ask()


def test_the_best_object_lies_uppermost():
    masks = np.zeros((300, 2, 300), np.uint8)
    masks[np.arange(300), 0, np.arange(300)] = 1
    masks[1, :, :2] = 1
    boxes, scores = np.ones((300, 4), np.float32), np.ones(300, np.float32)
    overlay = np.zeros((2, 300, 3), np.uint8)
    found = Instances(boxes, np.zeros(300, np.int32), scores, masks, overlay)
    numbers = found.uppermost()
    assert numbers[0, :4].tolist() == [1, 2, 3, 4]
    assert numbers[1, :3].tolist() == [2, 2, 0]
    assert numbers[0, 253:257].tolist() == [254, 255, 0, 0]
    assert len(found.describe(1)[0]["objects"]) == 300


def test_programs_of_many_sizes_are_forgotten():
    @jax.jit
    def program(x):
        return x + 1

    programs = Programs(most=3)
    kept = []
    for size, count in ((1, 1), (2, 1), (2, 1), (3, 1), (4, 1), (4, 1), (5, 2), (1, 1), (6, 9), (6, 9)):
        new = programs.about_to_run(size, count)
        program(np.zeros(size))
        kept.append((new, program._cache_size()))
    assert [new for new, _ in kept] == [True, True, False, True, True, False, True, True, True, False]
    assert [size for _, size in kept] == [1, 2, 2, 3, 1, 1, 2, 1, 1, 1]


def test_attention_is_asked_of_a_pixel(networks):
    image = Upload.of(np.zeros((48, 96, 3), np.uint8), 96)
    with pytest.raises(UserError, match="48 rows and 96 columns"):
        networks[0].attention("key", image, Way(), (0, 96))


def test_own_images_that_are_not_at_hand(tmp_path):
    config = helpers.load_config("camvid", data__dir=str(tmp_path / "moved"))
    run = helpers.RunFolder(tmp_path / "run")
    records.save_config(run, config)
    records.save_classes(run, DATASETS["camvid"].classes)
    own = OwnImages.of_run(str(run))
    assert own.names == []
    assert "moved" in own.missing
    with pytest.raises(UserError, match="no image number 0"):
        own.pixels(0)
    with pytest.raises(UserError, match="elsewhere"):
        OwnImages.of_run(str(run), str(tmp_path / "elsewhere"))
