import pytest

from ccnet_jax.tools.costs import memory, report
from kernels.bench.aot import Report
from tests.helpers import load_config

pytestmark = pytest.mark.slow

HLO = "ENTRY %main (x: f32[1]) -> f32[1] {\n  ROOT %x = f32[1] parameter(0)\n}"


def planned(megabytes):
    return Report(megabytes * 10**6, 0, 0, 0, {}, HLO)


@pytest.fixture
def asked(monkeypatch):
    """The batches that are planned, by no compiler: an image takes 1 GB, and one part at a time."""
    batches = []

    def plan_training(config, classes, batch_size, gpu):
        batches.append(batch_size)
        return planned(1000 * batch_size // config.accumulate)

    monkeypatch.setattr(memory, "missing_reason", lambda: None)
    monkeypatch.setattr(memory, "plan_training", plan_training)
    monkeypatch.setattr(memory, "plan_testing", lambda *_: memory.Plan({"network": 1}, planned(1)))
    return batches


@pytest.mark.parametrize(("accumulate", "largest"), [(1, 22), (3, 66)])
def test_the_largest_batch_is_one_that_can_be_split(accumulate, largest, asked):
    config = load_config("demo", model__width=0.125, data__crop=(64, 64), batch_size=6, accumulate=accumulate)
    found = report.costs(config, 6, (64, 64), "a10")["largest_batch"]
    assert found["batch_size"] == largest == int(found["usable_bytes"] / 1e9) * accumulate
    assert all(batch % accumulate == 0 for batch in asked)
    assert found["peak_bytes"] == {str(x): 10**9 * x // accumulate for x in sorted(asked)}
