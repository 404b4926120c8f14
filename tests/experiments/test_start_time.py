import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.folder import RunFolder
from experiments import start_time
from tests.experiments import reports


def test_the_table_has_medians_and_their_ratio():
    rounds = [{"first": first, "second": second} for first, second in ((20.0, 5.0), (30.0, 10.0), (31, 8))]
    report = {**reports.HEAD, "config": "demo", "rounds": rounds}
    assert start_time.tables(report)["starts"].splitlines() == [
        "| `demo` | s to the first step | speed |",
        "|---|---|---|",
        "| first start | 30.0 (20.0 to 31.0) | 1.00x |",
        "| second start | 8.0 (5.0 to 10.0) | 3.75x |",
    ]


def test_a_round_fills_the_cache_and_uses_it(tmp_path, monkeypatch):
    """The second start sees the cache of the first; the clock stops at the first line of the log."""
    program = tmp_path / "ccnet_jax" / "train.py"
    program.parent.mkdir()
    program.write_text(
        "import os, pathlib, sys, time\n"
        "cache = pathlib.Path(os.environ['XDG_CACHE_HOME'])\n"
        "assert not {'JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE'} & set(os.environ)\n"
        "print(cache.exists(), file=open(os.environ['SEEN'], 'a'))\n"
        "time.sleep(0.5)\n"
        "cache.mkdir(exist_ok=True)\n"
        "[workdir] = [word.partition('=')[2] for word in sys.argv if word.startswith('--workdir')]\n"
        "pathlib.Path(workdir).mkdir()\n"
        "(pathlib.Path(workdir) / 'metrics.jsonl').write_text('{}')\n"
        "time.sleep(1)\n"
    )
    monkeypatch.setattr(start_time, "ROOT", tmp_path)
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    seconds = start_time.measured_round("demo")
    assert list(seconds) == ["first", "second"]
    assert all(x >= 0.5 for x in seconds.values())
    assert (tmp_path / "seen").read_text().split() == ["False", "True"]


def test_a_training_that_fails_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"exit status 2: .*no config"):
        start_time.seconds_to_first_step("no config", RunFolder(tmp_path / "run"), tmp_path / "cache")
