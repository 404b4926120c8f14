import json
import math

import jax.numpy as jnp
import pytest

from kernels.bench import __main__ as bench
from kernels.bench import tune
from kernels.bench.bench_cases import DTYPES, Size
from kernels.bench.bench_limits import Limits, Work, least_work
from kernels.criss_cross import blocks, device
from kernels.criss_cross.blocks import Blocks, power_of_two

pytestmark = pytest.mark.slow

POSITIVE = ("median_us", "p25_us", "p75_us", "rounds", "bytes", "operations", "floor_us", "memory_bytes")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "new" / "toy.json"
    bench.main(["--toy", "--output", str(path)])
    assert [x.name for x in path.parent.iterdir()] == ["toy.json"]  # nothing is left beside it
    return json.loads(path.read_text())


def test_the_report_begins_with_the_common_head(report):
    assert list(report)[:6] == ["device", "driver", "versions", "commit", "command", "date"]


def test_every_case_has_every_implementation(report):
    assert report["toy"] is True
    cases = [(x["shape"], x["dtype"], x["direction"], x["implementation"]) for x in report["rows"]]
    assert cases == [
        ("1x9x7", dtype, direction, implementation)
        for dtype in ("bfloat16", "float32")
        for direction in ("forward", "forward+backward")
        for implementation in ("triton_interpret", "xla")
    ]


def test_every_number_is_finite_and_positive(report):
    limits = report["limits"]
    numbers = [limits["copy"], limits["shortest"], *limits["matrix"]["bfloat16"].values()]
    numbers += limits["matrix"]["float32"].values()
    for row in report["rows"]:
        assert row["failure"] is None
        assert row["p25_us"] <= row["median_us"] <= row["p75_us"]
        assert set(row["time_over"]) == {"triton_interpret", "xla", "floor"}
        assert row["time_over"][row["implementation"]] == pytest.approx(1)
        numbers += [row[key] for key in POSITIVE] + list(row["time_over"].values())
    assert all(math.isfinite(x) and x > 0 for x in numbers)


def test_errors_are_those_of_the_dtype(report):
    for row in report["rows"]:
        largest = 1e-4 if row["dtype"] == "float32" else 3e-2
        assert 0 <= row["error_out"] < largest
        if row["direction"] == "forward":
            assert row["error_gradients"] is None
        else:
            assert 0 <= row["error_gradients"] < largest
        if row["dtype"] == "bfloat16":
            assert row["error_out"] > 0  # against float32, not against itself


def test_the_table_says_what_it_is_worth_and_shows_failures(report):
    failed = {**report["rows"][0], "failure": "RESOURCE_EXHAUSTED: out of memory"}
    text = bench.table({**report, "rows": [failed, *report["rows"][1:]]})
    assert "TOY SIZES: the interpreter's times mean nothing" in text
    assert "failed: RESOURCE_EXHAUSTED" in text
    assert sum("float32  forward+backward xla" in line for line in text.splitlines()) == 1


def test_least_work_of_the_papers_size():
    size = Size(8, 97, 97)
    forward = least_work(size, "bfloat16", "forward")
    assert forward.bytes == 2 * (2 * 75272 * 64 + 2 * 75272 * 512)
    assert forward.operations == 2 * 75272 * 193 * 576
    both = least_work(size, "bfloat16", "forward+backward")
    read, written = 75272 * (64 + 64 + 512 + 512 + 512), 75272 * (64 + 64 + 512)
    assert both.bytes == forward.bytes + 2 * (read + written)
    assert both.operations == forward.operations + 2 * 75272 * 193 * (3 * 64 + 2 * 512)
    assert least_work(size, "float32", "forward").bytes == 2 * forward.bytes


def test_the_floor_is_the_slower_of_copying_and_computing():
    limits = Limits(copy=10.0, matrix={"float32": {"HIGHEST": 2.0, "TF32": 4.0}}, shortest=0.0)
    assert limits.floor(Work(bytes=100, operations=8), "float32") == 10
    assert limits.floor(Work(bytes=100, operations=80), "float32") == 20


def test_toy_tuning_prints_rows_for_the_table(capsys):
    tune.main(["--toy", "--dtypes", "float32"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert "mean nothing" in title
    rows = eval("\n".join(["{", *lines, "}"]), {"Blocks": Blocks})
    assert list(rows) == [(device.generation(), x, 4, 16) for x in ("forward", "backward")]
    assert all(isinstance(x, Blocks) for x in rows.values())


ROW = {"generation": "hopper", "direction": "forward", "bytes": 2, "longest": 128}
ROW |= {"blocks": [128, 64, 64, 8, 2], "us": 90.0, "default_us": 120.0}


def test_an_interrupt_keeps_the_rows_found_so_far_and_the_next_run_goes_on(capsys, monkeypatch, tmp_path):
    asked = []

    def interrupted(problems, *_, **__):
        asked.append(len(problems))
        yield {**ROW, "generation": device.generation(), "longest": 16}
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "rows", interrupted)
    arguments = ["--toy", "--dtypes", "bfloat16", "--output", str(tmp_path / "blocks.json")]
    tune.main(arguments)
    line = f'("{device.generation()}", "forward", 2, 16): Blocks(128, 64, 64, 8, 2),  # 90 us, default 120 us'
    assert capsys.readouterr().out.splitlines()[1:] == [line]
    tune.main(arguments)
    assert asked == [2, 1]  # forward is known
    assert not json.loads((tmp_path / "blocks.json").read_text())["finished"]


def test_bench_uses_the_blocks_that_tune_wrote(monkeypatch, tmp_path):
    monkeypatch.setattr(blocks, "TABLE", {("hopper", "forward", 2, 256): Blocks(64, 256, 64, 8, 3)})
    path = tmp_path / "blocks.json"
    path.write_text(json.dumps({"rows": [{**ROW, "longest": 512}, ROW]}))
    blocks.use_tuned(path)
    assert [key[-1] for key in blocks.TABLE] == [128, 256, 512]  # shortest line first
    chosen = blocks.choose_blocks("forward", 97, 64, jnp.bfloat16, "hopper")
    assert chosen == Blocks(128, 64, 64, 8, 2)


def test_a_benchmark_that_was_cut_off_goes_on(report, tmp_path, monkeypatch):
    path = tmp_path / "toy.json"
    path.write_text(json.dumps({**report, "rows": report["rows"][:-4], "finished": False}))
    asked = []

    def measured(*case):
        asked.append(case[:3])
        return report["rows"][:2]

    monkeypatch.setattr(bench, "measured_rows", measured)
    bench.main(["--toy", "--resume", "--output", str(path)])
    assert [(size.name, *rest) for size, *rest in asked] == [
        ("1x9x7", "float32", direction) for direction in ("forward", "forward+backward")
    ]
    again = json.loads(path.read_text())
    assert again["rows"][:-4] == report["rows"][:-4]
    assert again["finished"]


def test_tuning_without_a_gpu_says_what_it_needs():
    with pytest.raises(SystemExit, match="needs an NVIDIA GPU.*this is CPU") as exit_:
        tune.main([])
    assert exit_.value.code  # a text: status 1


@pytest.mark.parametrize("generation", ["hopper", "ampere"])
def test_candidates_fit_the_line(generation, monkeypatch):
    monkeypatch.setattr(device, "generation", lambda: generation)
    squares = tune.squares(bench.FULL.sizes)
    assert [(x.batch, x.height, x.width) for x in squares] == [
        (16, 64, 64),
        (8, 97, 97),  # stands for 128, too
        (1, 256, 256),
        (1, 512, 512),
    ]
    for direction in tune.DIRECTIONS:
        for dtype in DTYPES:
            for size in squares:
                default, *others = tune.sensible_blocks(direction, dtype, size)
                assert len(others) > 10
                assert default not in others
                for other in others:
                    assert max(other.query, other.key) <= power_of_two(size.height)
                    assert 2 * other.key >= other.query
