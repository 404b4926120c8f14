"""Test modes: what a config asks for, the sizes that the network sees, the text in reports."""

import itertools
import zlib

import numpy as np
import pytest

from ccnet_jax.evaluation.test_mode import SCALINGS, WHOLE, TestMode
from ccnet_jax.models.ccnet import FLAVOURS
from tests import helpers

SLIDING = {"eval_window": (769, 769), "eval_stride": (513, 513), "data__resize": (2049, 1025)}


def test_a_config_says_how_images_are_tested():
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


RATIOS = (0.5, 0.75, 1.25, 1.5, 1.75, 2.0)
# Of `tests/record_mmsegmentation.py`: {image: sizes at the ratios}, where one of the two rounds otherwise.
RECORDED = {
    "mmcv": {
        (97, 131): [(49, 66), (73, 98), (121, 163), (146, 197), (170, 229), (194, 262)],
        (131, 97): [(66, 49), (98, 73), (163, 121), (197, 146), (229, 170), (262, 194)],
        (375, 500): [(188, 250), (281, 375), (469, 625), (563, 750), (656, 875), (750, 1000)],
        (683, 1023): [(342, 512), (512, 767), (854, 1279), (1025, 1535), (1195, 1790), (1366, 2046)],
        (33, 2047): [(17, 1024), (25, 1535), (41, 2543), (50, 3071), (58, 3582), (66, 4094)],
    },
    "scipy": {
        (97, 131): [(48, 66), (73, 98), (121, 164), (146, 196), (170, 229), (194, 262)],
        (131, 97): [(66, 48), (98, 73), (164, 121), (196, 146), (229, 170), (262, 194)],
        (375, 500): [(188, 250), (281, 375), (469, 625), (562, 750), (656, 875), (750, 1000)],
        (683, 1023): [(342, 512), (512, 767), (854, 1279), (1024, 1534), (1195, 1790), (1366, 2046)],
        (33, 2047): [(16, 1024), (25, 1535), (41, 2559), (50, 3070), (58, 3582), (66, 4094)],
    },
}
CHECKSUMS = {"mmcv": 3807244728, "scipy": 1697065895}  # of the sizes of many images


@pytest.mark.parametrize("scaling", RECORDED)
def test_scales_give_the_sizes_of_the_original(scaling):
    for size, sizes in RECORDED[scaling].items():
        assert [SCALINGS[scaling](size, ratio) for ratio in RATIOS] == sizes
    many = itertools.product(range(32, 2100, 67), range(32, 2100, 13))
    sizes = [SCALINGS[scaling](size, ratio) for size in many for ratio in RATIOS]
    assert zlib.crc32(np.array(sizes, "<i4").tobytes()) == CHECKSUMS[scaling]


def test_mmsegmentation_scales_the_images_own_size_and_not_the_box():
    config = helpers.load_config("demo", **SLIDING)
    assert config.test_mode().input_size((1024, 2048), 1.0) == (1025, 2049)
    mode = config.test_mode(ms_flip=True)
    sizes = [mode.input_size((1024, 2048), scale) for scale in mode.scales]
    assert sizes == [(512, 1024), (768, 1536), (1024, 2048), (1280, 2560), (1536, 3072), (1792, 3584)]
    assert not any(mode.aligns_corners(scale) for scale in mode.scales)


def test_ade20k_is_resized_at_one_scale_and_not_at_several():
    config = helpers.load_config("ade20k:mmseg-r50-512x512-80k")
    assert config.test_mode().input_size((683, 1023), 1.0) == (512, 767)
    mode = config.test_mode(ms_flip=True)
    sizes = {scale: mode.input_size((683, 1023), scale) for scale in mode.scales}
    assert sizes.pop(1.0) == (683, 1023)
    assert sizes == dict(zip(RATIOS[:-1], RECORDED["mmcv"][683, 1023][:-1], strict=True))


def test_the_authors_code_zooms():
    mode = helpers.load_config("cityscapes").test_mode(ms_flip=True)
    sizes = {scale: mode.input_size((683, 1023), scale) for scale in mode.scales}
    assert sizes.pop(1.0) == (683, 1023)
    assert sizes == dict(zip(RATIOS[1:], RECORDED["scipy"][683, 1023][1:], strict=True))
    assert [mode.aligns_corners(scale) for scale in (0.75, 1.0, 2.0)] == [True, False, True]


def test_the_network_sees_no_less_than_it_takes():
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
            "slide 769x769/513x513, ms-flip",
        ),
    ],
)
def test_a_mode_as_text(mode, text):
    assert str(mode) == text
