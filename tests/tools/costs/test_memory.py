import dataclasses
import re

import pytest

from ccnet_jax.evaluation.test_mode import TestMode
from ccnet_jax.tools.costs import memory
from kernels.bench import aot
from kernels.bench.gpu import GPUS


def search(limit, first, planned):
    asked = []

    def plan(batch):
        asked.append(batch)
        return planned(batch)

    largest, found = memory.largest_batch(plan, (first, planned(first)), limit)
    assert found == {batch: planned(batch) for batch in [first, *asked]}
    assert len(asked) == len(set(asked))
    return largest, len(asked)


@pytest.mark.parametrize("first", [1, 2, 8, 40, 64])
def test_on_a_straight_line_two_programs_and_the_answer_are_compiled(first):
    largest, compiled = search(1000, first, lambda batch: 200 + 20 * batch)
    assert largest == 40
    assert compiled <= 2


def test_a_bent_line_is_drawn_again():
    largest, compiled = search(1000, 2, lambda batch: 100 + 20 * batch + batch**2 // 10)
    assert 100 + 20 * largest + largest**2 // 10 <= 1000
    assert largest >= 37  # the largest is 38
    assert compiled <= 5


def test_a_batch_that_never_fits():
    assert search(100, 1, lambda batch: 200 + batch) == (0, 0)
    assert search(100, 8, lambda batch: 200 + batch)[0] == 0


def test_one_image_is_tried_before_none_is_said_to_fit():
    """Near the limit the line is not straight, and tells less than one image."""
    planned = {8: 143, 4: 119, 3: 112, 2: 105, 1: 70}
    assert search(100, 8, planned.__getitem__)[0] == 1


def test_some_memory_is_left_to_others():
    for name, gpu in GPUS.items():
        assert memory.usable_bytes(name) < gpu.memory_bytes
        assert memory.usable_bytes(name) > 0.9 * gpu.memory_bytes


def test_windows_of_an_image():
    slide = TestMode(window=(769, 769), stride=(513, 513))
    assert memory.windows_at_once(TestMode(), (1024, 2048)) == 1
    assert memory.windows_at_once(slide, (1024, 2048)) == 4
    assert memory.windows_at_once(slide, (769, 1000)) == 2
    assert memory.windows_at_once(slide, (500, 500)) == 1
    scaled = dataclasses.replace(slide, scales=(1.0, 2.0))
    assert memory.windows_at_once(scaled, (500, 500)) == 4
    assert memory.network_calls(TestMode(), (1024, 2048)) == 1
    assert memory.network_calls(slide, (1024, 2048)) == 2  # of eight windows
    assert memory.network_input(slide, (1024, 2048)) == (769, 769)
    assert memory.network_input(slide, (500, 2048)) == (500, 769)
    assert memory.network_input(TestMode(), (500, 2048)) == (500, 2048)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_data_sheets(gpu):
    assert re.sub(r"\W", "", gpu.title).lower().startswith(("nvidia" + gpu.name, "nvidiageforce" + gpu.name))
    assert gpu.flops["bfloat16"] == pytest.approx(2 * gpu.flops["float32"], rel=0.02)
    assert 2e10 < gpu.memory_bytes < 2e11
    assert 5e11 < gpu.bandwidth < 5e12
    major, minor = gpu.architecture.removeprefix("sm_").rstrip("a")
    minor = f" minor: {minor}" if minor != "0" and major == "8" else ""
    capability = gpu.description.split("cuda_compute_capability {")[1].split("}")[0]
    assert f"major: {major}{minor}" in capability


def test_what_is_missing_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setattr(aot, "unavailable", lambda: "JAX's CUDA plugin is not installed")
    monkeypatch.setattr(memory.sys, "platform", "linux")
    assert memory.missing_reason() == (
        "JAX's CUDA plugin is not installed; in a clone, pip install '.[cost]' brings all that is needed"
    )
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.missing_reason() == "JAX compiles for NVIDIA's GPUs on Linux only, and this is darwin"
    monkeypatch.setattr(aot, "unavailable", lambda: None)
    assert memory.missing_reason() is None
