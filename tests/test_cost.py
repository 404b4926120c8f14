"""`python -m ccnet_jax.cost` as a user runs it: with the compiler, and without."""

import json
import sys

import cv2
import pytest

from ccnet_jax import cost
from ccnet_jax.common.errors import UserError
from ccnet_jax.tools.costs import memory, report
from kernels.bench import aot
from tests.helpers import TINY_FLAGS, fresh_python

pytestmark = pytest.mark.slow

TINY = ["demo", "--config.data.crop=64,64", "--batch=2"]


@pytest.fixture
def cost_of(monkeypatch, capsys):
    """What the program prints; arguments -> standard output."""

    def printed(*arguments):
        monkeypatch.setattr(sys, "argv", ["cost", *TINY, *arguments])
        cost.main()
        return capsys.readouterr().out

    return printed


@pytest.mark.skipif(aot.unavailable() is not None, reason=str(aot.unavailable()))
def test_a_config_is_planned_for_a_gpu():
    """The search for the largest batch has tests of its own; here it compiles nothing more."""
    code = f"""if True:
        import sys
        from ccnet_jax import cost
        from ccnet_jax.tools.costs import memory, report
        memory.largest_batch = lambda planned, first, limit: (first[0], dict([first]))
        sys.argv = ["cost", *{TINY + TINY_FLAGS!r}, "--gpu=a10", "--inference=64x96", "--json"]
        cost.main()
    """
    result = json.loads(fresh_python("-c", code))
    assert (result["config"], result["gpu"], result["missing"]) == ("demo", "a10", None)
    assert result["image"] == result["network_input"] == [64, 96]
    training, testing = result["training"], result["testing"]
    assert training["attention_kernels"]
    parameters = 4 * result["parameters"]
    assert 2 * parameters < training["weights_and_optimizer_bytes"] < 2.1 * parameters  # and momentum
    held = training["weights_and_optimizer_bytes"] + training["temporary_bytes"]
    assert held < training["peak_bytes"] < 1.1 * held + 2 * 64 * 64 * 4
    assert training["accessed_bytes"] > training["temporary_bytes"]
    assert testing["peak_bytes"] == max(testing["steps"].values()) < training["peak_bytes"]
    assert training["bound_by"] == "memory"  # it is so small
    assert training["seconds_at_least"] == pytest.approx(training["accessed_bytes"] / 600e9)
    assert training["gpus"] == 2  # the config's batch is 4
    largest = result["largest_batch"]
    assert largest == {
        "batch_size": 2,
        "usable_bytes": memory.usable_bytes("a10"),
        "peak_bytes": {"2": training["peak_bytes"]},
    }


def test_without_the_compiler_the_rest_is_reported(cost_of, monkeypatch, tmp_path):
    monkeypatch.setattr(aot, "unavailable", lambda: "ptxas is not on the PATH")
    monkeypatch.setattr(memory.sys, "platform", "linux")
    chart = tmp_path / "chart.png"
    pytest.importorskip("matplotlib")
    text = cost_of(f"--plot={chart}", "--gpu=rtx4090")
    assert "ptxas is not on the PATH; in a clone, pip install '.[cost]' brings all that is needed" in text
    assert "GB of" not in text
    for word in ("stage 3", "context", "auxiliary head", "NVIDIA GeForce RTX 4090", "not measurements"):
        assert word in text
    assert cv2.imread(str(chart)).shape[1] > 1000
    result = json.loads(cost_of("--json"))
    sums = [
        sum(row.get(f"training_{direction}", 0) for row in result["parts"].values())
        for direction in ("forward", "backward")
    ]
    assert sum(sums) == result["training"]["products"]
    assert sum(row["parameters"] for row in result["parts"].values()) == result["parameters"]
    assert result["training"]["seconds_at_least"] == pytest.approx(sum(sums) / 494.5e12)


def test_windows_bound_testing_without_the_compiler_too(cost_of, monkeypatch):
    """Fifteen windows of 64x64, four at once, take sixteen times the operations of one."""
    monkeypatch.setattr(aot, "unavailable", lambda: "ptxas is not on the PATH")
    slide = ("--config.eval_window=64,64", "--config.eval_stride=32,32")
    one, many = (
        json.loads(cost_of("--json", f"--inference={size}", *slide))["testing"]
        for size in ("64x64", "128x192")
    )
    assert [x["network_calls"] for x in (one, many)] == [1, 4]
    assert one["products"] == many["products"]
    assert many["images_per_second_at_most"] == pytest.approx(one["images_per_second_at_most"] / 16)


def test_the_schedule_is_bounded_where_gpus_can_share_its_batch(cost_of, monkeypatch):
    """The config's batch is 4: two GPUs share it by 2 each, and none by 3."""
    monkeypatch.setattr(aot, "unavailable", lambda: "ptxas is not on the PATH")
    costs = json.loads(cost_of("--json"))
    assert costs["training"]["gpus"] == 2
    assert "days on 2 such GPUs" in report.as_text(costs, costs["config"])
    costs = json.loads(cost_of("--json", "--batch=3"))
    assert costs["training"]["gpus"] is costs["training"]["days_at_least"] is None
    assert "is no multiple of this one" in report.as_text(costs, costs["config"])


def test_a_chart_of_an_unknown_format_is_refused_at_once(cost_of):
    with pytest.raises(UserError, match=r"--plot a.xyz must end in .png or .pdf or .svg"):
        cost_of("--plot=a.xyz")


def test_wrong_sizes_are_named(cost_of):
    with pytest.raises(UserError, match="--inference=5 must be HEIGHTxWIDTH"):
        cost_of("--inference=5")
    with pytest.raises(SystemExit):
        cost_of("--gpu=abacus")
