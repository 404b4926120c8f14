import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from experiments import on_gpu
from experiments import report as tables_of_results
from experiments.gpu import camvid, summary
from experiments.speed.cases import Case
from tests import helpers
from tests.miniatures import write_camvid

PARTS = ["kernels", "model_speed", "camvid"]  # of the others, the tests of their programs run a toy
# What a bare machine lacks; without them, only camvid cannot run.
OURS = (*on_gpu.CAMVID_PACKAGES, "tensorflow_datasets", "array_record")


def toy(folder, *arguments):
    flags = ["--toy", "--camvid=camvid", "--camvid-run=run", "--results=results"]
    flags += [f"--parts={','.join(PARTS)}", *arguments]
    process = helpers.start("experiments.on_gpu", *flags, cwd=folder)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """camvid/ with a test split, and what a toy run of `PARTS` left in results/ and run/."""
    folder = tmp_path_factory.mktemp("gpu")
    write_camvid(folder / "camvid", images=2)
    for kind in ("images", "labels"):
        shutil.copytree(folder / "camvid" / kind / "val", folder / "camvid" / kind / "test")
    (folder / "out.txt").write_text(toy(folder, "--minutes=60"))
    return folder


def results_of(folder):
    (device,) = (folder / "results").iterdir()
    return device


def all_parts(folder, *arguments):
    """Of a run that finds new blocks; --camvid is `folder`."""
    (folder / "blocks.json").touch()
    flags = {"toy": False, "camvid": folder, "camvid_run": None, "camvid_steps": 5}
    return list(on_gpu.parts(folder, argparse.Namespace(**flags | dict(arguments))))


def test_the_names_of_parts_are_theirs(tmp_path, capsys):
    assert [part.name for part in all_parts(tmp_path)] == list(on_gpu.PARTS)
    assert on_gpu.part_names("camvid,bench") == ["camvid", "bench"]
    with pytest.raises(SystemExit):
        on_gpu.main(["--parts", "bench,nothing"])
    assert "'nothing' is none of gradients, kernels, " in capsys.readouterr().err


@pytest.mark.parametrize("is_toy", [False, True])
def test_every_program_knows_its_flags(is_toy, tmp_path, monkeypatch):
    """A run on a GPU must not end at a flag that was renamed."""

    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parsed(*arguments):
        raise Parsed(parse(*arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    for part in all_parts(tmp_path, ("toy", is_toy)):
        for name, *flags in part.commands:
            module = importlib.import_module(name)
            program = module if hasattr(module, "main") else importlib.import_module(f"{name}.__main__")
            with pytest.raises(Parsed) as found:
                program.main([flag.format(minutes=1) for flag in flags])
            assert found.value.args[0].toy == is_toy
            assert found.value.args[0].output.name == f"{part.name}.json"


def test_every_part_leaves_its_result(folder):
    device = results_of(folder)
    assert device.name.startswith("cpu-")
    assert device.name.endswith("-toy")  # apart from what is no trial
    assert sorted(x.name for x in device.iterdir()) == sorted([*(f"{x}.json" for x in PARTS), "summary.md"])
    out = (folder / "out.txt").read_text()
    for name in PARTS:
        assert f"== {name}: done" in out
        report = json.loads((device / f"{name}.json").read_text())
        assert list(report)[:6] == ["device", "driver", "versions", "commit", "command", "date"]
        assert {"python", "jax"} <= set(report["versions"])
        assert report["finished"], name
        assert report["toy"]


@pytest.mark.parametrize(
    ("result", "table", "lines", "cell"),
    [
        ("kernels", "errors", 3, "| float16 | 1 of 1 | "),
        ("model_speed", "times", None, "| inference R-10 "),
        ("camvid", "scores", 1, f"| {camvid.TOY_STEPS} of {camvid.TOY_STEPS} | "),
    ],
)
def test_a_page_can_show_every_part(result, table, lines, cell, folder):
    report = json.loads((results_of(folder) / f"{result}.json").read_text())
    module = importlib.import_module(tables_of_results.module_of(f"cpu/{result}"))
    found = module.tables(report)[table]
    assert cell in found
    assert lines is None or len(found.splitlines()) == 2 + lines


def test_every_contender_is_timed(folder):
    """JAX alone where PyTorch is not installed."""
    report = json.loads((results_of(folder) / "model_speed.json").read_text())
    torch = importlib.util.find_spec("torch") is not None
    for row in report["cases"]:
        assert list(row["contenders"]) == ["jax", *["torch", "torch channels-last"] * torch]
        for numbers in row["contenders"].values():
            assert numbers["failure"] is None
            assert numbers["low"] <= numbers["seconds"] <= numbers["high"]
            assert numbers["peak_bytes"] > 1e7


def test_pytorch_agrees_with_jax(folder):
    pytest.importorskip("torch")
    report = json.loads((results_of(folder) / "model_speed.json").read_text())
    inference, training = (row["contenders"] for row in report["cases"])
    for name in ("torch", "torch channels-last"):
        assert inference[name]["logits_difference"] < 1e-5
        # dropout takes other channels
        assert training[name]["first_loss"] == pytest.approx(training["jax"]["first_loss"], rel=0.1)


def test_camvid_is_trained_and_scored(folder):
    report = json.loads((results_of(folder) / "camvid.json").read_text())
    assert report["step"] == report["steps"] == camvid.TOY_STEPS == report["test"]["step"]
    assert report["test"]["images"] == 2
    assert 0 <= report["test"]["mIoU"] <= 1
    assert report["training"]["images_per_second"] > 0


def test_a_second_run_does_nothing_again(folder):
    device = results_of(folder)
    before = {path.name: path.read_bytes() for path in device.iterdir()}
    out = toy(folder)
    for name in PARTS:
        assert f"== {name} is skipped: its result is there" in out
    assert {path.name: path.read_bytes() for path in device.iterdir()} == before
    assert (
        "| kernels equal the float32 reference | every error within its bound | 3 of 3 cases | yes |" in out
    )


def test_a_run_without_time_starts_nothing(folder):
    out = toy(folder, "--results=none", "--minutes=0.1")
    for name in PARTS:
        assert f"== {name} is skipped: it has " in out
    (device,) = (folder / "none").iterdir()
    assert [x.name for x in device.iterdir()] == ["summary.md"]
    assert (device / "summary.md").read_text().count(summary.NOT_MEASURED) == 10


def test_training_that_is_cut_off_at_once_says_so(folder, tmp_path):
    flags = [f"--data={folder}/camvid", f"--run={tmp_path}/run", f"--output={tmp_path}/a.json", "--toy"]
    with pytest.raises(SystemExit, match="cut off before its first checkpoint"):
        camvid.main([*flags, "--minutes=0"])
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["finished"], report["step"], report["test"]) == (False, 0, None)


def test_what_a_part_started_ends_with_it(monkeypatch):
    monkeypatch.setattr(on_gpu, "GRACE", 1.0)
    command = [sys.executable, "-m", "tests.experiments.endless_part"]
    process = subprocess.Popen(
        command, cwd=helpers.ROOT, process_group=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    on_gpu.stop(process)
    assert process.poll() is not None
    process.communicate(timeout=60)  # the child held the other end
    while pathlib.Path(f"/proc/{child}").exists():  # until whoever inherited it has noticed
        if pathlib.Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.01)


def test_a_part_that_fails_or_takes_too_long_says_so(capfd, monkeypatch):
    monkeypatch.setattr(on_gpu, "GRACE", 1.0)
    assert on_gpu.run(on_gpu.Part("a", 1, 0, [["tests.experiments.nowhere"]]), 60) == "failed with status 1"
    assert on_gpu.run(on_gpu.Part("a", 1, 0, [["tests.experiments.endless_part"]]), 0).startswith("cut off")


def test_missing_packages_skip_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu.importlib.util, "find_spec", lambda name: None if name == "grain" else name)
    flags = argparse.Namespace(toy=True, camvid=tmp_path, camvid_run=None, camvid_steps=None)
    skipped = {
        part.name: on_gpu.reason_to_skip(part, tmp_path, "x", 1e4, [])
        for part in on_gpu.parts(tmp_path, flags)
    }
    assert skipped.pop("camvid") == "it needs the packages grain"
    assert set(skipped.values()) == {None}


def test_new_blocks_are_measured_again(tmp_path):
    part = on_gpu.Part("bench_tuned", 1.0, 0, [])
    report = {"finished": True, "device": "x", "versions": on_gpu.versions()}
    report |= {"sources": on_gpu.sources("kernels")}
    (tmp_path / "bench_tuned.json").write_text(json.dumps(report))
    assert on_gpu.reason_to_skip(part, tmp_path, "x", 60, []) == "its result is there"
    assert on_gpu.reason_to_skip(part, tmp_path, "x", 60, ["blocks"]) is None
    assert on_gpu.reason_to_skip(part, tmp_path, "y", 60, []) is None
    (tmp_path / "bench_tuned.json").write_text(json.dumps(report | {"versions": {"jax": "0.1"}}))
    assert on_gpu.reason_to_skip(part, tmp_path, "x", 60, []) is None


def test_a_score_stays_until_a_later_checkpoint_has_one(tmp_path, monkeypatch):
    """The test of a later checkpoint may be cut off."""
    run = helpers.RunFolder(tmp_path / "run")
    monkeypatch.setattr(camvid, "train", lambda flags, seconds: run.path.mkdir(exist_ok=True))
    monkeypatch.setattr(camvid.Checkpoints, "last_step", lambda run: 2)
    monkeypatch.setattr(camvid, "last_logged", lambda run: None)
    monkeypatch.setattr(camvid, "test_scores", lambda data, run: {"step": 2, "mIoU": 0.5})
    output = tmp_path / "camvid.json"
    flags = [f"--data={tmp_path}", f"--run={run.path}", f"--output={output}", "--toy", "--minutes=1"]
    camvid.main(flags)

    def cut_off(data, run):
        raise KeyboardInterrupt

    monkeypatch.setattr(camvid, "test_scores", cut_off)
    for step, kept in ((4, {"step": 2, "mIoU": 0.5}), (1, None)):  # at step 1 it is another run
        monkeypatch.setattr(camvid.Checkpoints, "last_step", lambda run, step=step: step)
        with pytest.raises(KeyboardInterrupt):
            camvid.main(flags)
        report = json.loads(output.read_text())
        assert (report["step"], report["test"], report["finished"]) == (step, kept, False)


def test_without_a_commit_no_minute_is_spent(monkeypatch, capsys):
    monkeypatch.setattr(on_gpu, "commit", lambda: None)
    with pytest.raises(SystemExit):
        on_gpu.main(["--toy"])
    assert "set SOURCE_COMMIT to its hash" in capsys.readouterr().err


def test_without_a_gpu_it_says_what_it_can_do(capsys):
    with pytest.raises(SystemExit) as exit_:
        on_gpu.main(["--results", os.devnull])
    assert exit_.value.code == 2
    assert "JAX sees no GPU but cpu, " in capsys.readouterr().err


def test_folders_have_plain_names():
    assert on_gpu.folder_name("NVIDIA H100 80GB HBM3") == "NVIDIA-H100-80GB-HBM3"
    assert on_gpu.folder_name("../cpu, 2 cores.") == "cpu-2-cores"


@pytest.mark.parametrize(
    "module",
    [
        "experiments.on_gpu",
        "experiments.gradients",
        "experiments.speed.jax_side",
        "experiments.speed.weights",
    ],
)
def test_a_bare_machine_can_measure(module):
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in OURS)
    assert helpers.fresh_python("-c", f"import sys; {blocked}; import {module}; print('here')") == "here\n"


# ------------------------------------------------------------------------------------------------ the summary
def bench_row(direction, us, over_xla, over_floor, implementation="triton", **changes):
    row = {"shape": "8x97x97", "dtype": "bfloat16", "direction": direction, "implementation": implementation}
    row |= {"failure": None, "median_us": us, "time_over": {"xla": over_xla, "floor": over_floor}}
    return {**row, **changes}


def speed_row(task, jax, compiled):
    numbers = {"failure": None}
    contenders = {"jax": {**numbers, "images_per_second": jax}}
    contenders["torch.compile"] = {**numbers, "images_per_second": compiled}
    return {"case": Case(task, 50, 8, 769, 769, "bfloat16")._asdict(), "contenders": contenders}


def held(results):
    return {claim.text: claim.held for claim in summary.claims(results)}


def test_claims_hold_or_not():
    kernels = {"rows": [{"passed": True}, {"passed": True}], "finished": True}
    rows = [
        bench_row("forward", 70.0, 0.2, 1.6),
        bench_row("forward", 1.0, 0.01, 0.1, "xla"),
        bench_row("forward", 1.0, 0.01, 0.1, shape="2x128x256"),
        bench_row("forward+backward", 300.0, 0.3, 1.9),
    ]
    tuned = [bench_row("forward", 60.0, 0.2, 1.4), bench_row("forward", 1.0, 0.1, 0.1, failure="lost")]
    cases = [speed_row("training", 20.0, 10.0), speed_row("inference", 12.0, 10.0)]
    gradients = [
        {"network": "a", "dtype": dtype, "errors": {"all": [error, 1e-3]}, "zeros": [], "loss": [0.0, 0.0]}
        for dtype, error in (("float32", 1.9e-3), ("bfloat16", 5e-2))
    ]
    results = {
        "gradients": {"rows": gradients},
        "kernels": kernels,
        "bench": {"rows": rows, "toy": False},
        "bench_tuned": {"rows": tuned, "toy": False},
        "model_speed": {"cases": cases},
    }
    assert held(results) == {
        "gradients of whole networks, float32": True,
        "gradients of whole networks, bfloat16": False,  # 50 times PyTorch's error
        "kernels equal the float32 reference": True,
        "kernels against einsum, forward": True,
        "kernels against the floor, forward": True,  # with the tuned blocks
        "kernels against einsum, forward+backward": False,  # 3.3 times as fast
        "kernels against the floor, forward+backward": True,
        "training against torch.compile": True,
        "inference against torch.compile": False,
        "CamVid, ResNet-50, bfloat16: mIoU on the test split": None,
    }
    kernels["rows"].append({"passed": False})
    del results["bench_tuned"]
    again = held(results)
    assert again["kernels equal the float32 reference"] is False
    assert again["kernels against the floor, forward"] is False
    assert set(held({}).values()) == {None}
