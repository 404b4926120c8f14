"""Test modes: what a config asks for, the sizes that the network sees, the text in reports."""

import pytest

from ccnet_jax.evaluation.test_mode import WHOLE, TestMode
from ccnet_jax.models.ccnet import FLAVOURS
from tests import helpers

SLIDING = {"eval_window": (769, 769), "eval_stride": (513, 513), "data__resize": (2049, 1025)}


def test_a_config_says_how_pictures_are_tested():
    demo = helpers.load_config("demo")
    assert demo.test_mode() == WHOLE
    assert demo.test_mode(ms_flip=True) == WHOLE.ms_flip(FLAVOURS["mmseg"])
    sliding = helpers.load_config("demo", **SLIDING).test_mode()
    assert sliding == TestMode(resize=(2049, 1025), window=(769, 769), stride=(513, 513))


@pytest.mark.parametrize(
    ("flavour", "scales", "average_logits"),
    [
        ("mmseg", (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), False),
        ("official", (0.75, 1.0, 1.25, 1.5, 1.75, 2.0), True),
    ],
)
def test_each_flavour_has_its_own_scales_and_mean(flavour, scales, average_logits):
    mode = helpers.load_config("demo", model__flavour=flavour).test_mode(ms_flip=True)
    assert (mode.scales, mode.flip, mode.average_logits) == (scales, True, average_logits)
    assert mode.sums_probabilities != average_logits
    assert mode.passes() == [(scale, mirror) for scale in scales for mirror in (False, True)]
    assert WHOLE.passes() == [(1.0, False)]
    assert not WHOLE.sums_probabilities


def test_the_network_sees_mmsegmentations_sizes():
    mode = helpers.load_config("demo", **SLIDING).test_mode(ms_flip=True)
    sizes = [mode.input_size((1024, 2048), scale) for scale in mode.scales]
    assert sizes == [(512, 1024), (768, 1536), (1025, 2049), (1281, 2561), (1537, 3073), (1793, 3585)]
    assert WHOLE.input_size((3, 50), 1.0) == (32, 50)  # the network takes no less


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (WHOLE, "whole"),
        (WHOLE.ms_flip(FLAVOURS["official"]), "whole, ms-flip"),
        (TestMode(window=(64, 32), stride=(43, 22)), "slide 64x32/43x22"),
        (TestMode(scales=(1.0, 2.0)), "whole, scales 1.0, 2.0"),
        (TestMode(flip=True), "whole, scales 1.0, flip"),
        (
            TestMode((2049, 1025), (769, 769), (513, 513)).ms_flip(FLAVOURS["mmseg"]),
            "resize 2049x1025, slide 769x769/513x513, ms-flip",
        ),
    ],
)
def test_a_mode_as_text(mode, text):
    assert str(mode) == text
