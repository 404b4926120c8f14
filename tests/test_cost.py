"""`python -m ccnet_jax.cost` as a user runs it: with the compiler, and without."""

import json
import sys

import cv2
import pytest

from ccnet_jax import cost
from ccnet_jax.costs import memory
from ccnet_jax.errors import UserError
from kernels import aot
from tests.helpers import fresh_python

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
        from ccnet_jax.costs import memory
        memory.largest_batch = lambda planned, first, limit: (first[0], dict([first]))
        sys.argv = ["cost", *{TINY!r}, "--gpu=a10", "--inference=64x96", "--json"]
        cost.main()
    """
    result = json.loads(fresh_python("-c", code))
    assert (result["config"], result["gpu"], result["missing"]) == ("demo", "a10", None)
    assert result["picture"] == result["network_input"] == [64, 96]
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
    assert "ptxas is not on the PATH; pip install 'ccnet_jax[cost]' brings all that is needed" in text
    assert "GB of" not in text
    for word in ("stage 3", "context", "auxiliary head", "NVIDIA GeForce RTX 4090", "no measurement"):
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


def test_wrong_sizes_are_named(cost_of):
    with pytest.raises(UserError, match="--inference=5 must be HEIGHTxWIDTH"):
        cost_of("--inference=5")
    with pytest.raises(SystemExit):
        cost_of("--gpu=abacus")
