import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from experiments import on_gpu
from experiments.gpu import camvid, summary
from experiments.speed.cases import Case
from tests import helpers

pytestmark = pytest.mark.slow

PARTS = ["kernels", "model_speed", "camvid"]  # of the others, the tests of their programs run a toy
# What a bare machine lacks; without them, only camvid cannot run.
OURS = (*on_gpu.CAMVID_PACKAGES, "tensorflow_datasets", "array_record")


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
