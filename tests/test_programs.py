"""The programs as a user runs them: what they print, their exit codes, what they leave behind."""

import json
import os
import shutil
import signal
import time

import cv2
import jax
import numpy as np
import psutil
import pytest

import ccnet_jax
from ccnet_jax import eval as evaluation
from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.folder import RunFolder
from tests import helpers
from tests.miniatures import write_camvid

pytestmark = pytest.mark.slow

TINY = [
    "--config.batch_size=2",
    "--config.log_every=1",
    "--config.data.crop=(48, 64)",
    "--config.eval_every=0",
    # A schedule that does not know the number of steps: what one run has compiled the others find.
    "--config.optimizer.schedule=multi_step",
    "--config.optimizer.milestones=(1,)",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a configs/, a camvid/ of four images and runs/tiny, trained for two steps."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(helpers.ROOT / "configs")
    write_camvid(folder / "camvid")
    code, out, err = train(folder, "--workdir=runs/tiny", "--config.steps=2")
    assert code == 0, err
    assert "241,935 parameters" in out
    return folder


CAMVID = [
    f"--config={helpers.ROOT}/configs/demo.py",
    "--config.data.name=camvid",
    "--config.data.dir=camvid",
    *TINY,
]


def train(folder, *arguments):
    return helpers.run("ccnet_jax.train", *CAMVID, *arguments, cwd=folder)


def refused(folder, *arguments):
    return helpers.told("ccnet_jax.train", *CAMVID, *arguments, cwd=folder)


def assert_one_message(result, *words):
    code, _, err = result
    assert code != 0
    assert "Traceback" not in err, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    for word in words:
        assert word in errors[0], errors[0]


def test_eval_with_ms_flip_and_nothing_else_evaluates_the_newest_run(folder):
    code, out, err = helpers.run("ccnet_jax.eval", "--ms-flip", cwd=folder)
    assert code == 0, err
    for word in ("building", "mIoU", "mAcc", "pixel accuracy", "runs/tiny"):
        assert word in out
    report = json.loads((folder / "runs/tiny/eval-val-ms-flip.json").read_text())
    assert report["images"] == 4
    assert report["step"] == 2
    assert len(report["IoU"]) == len(report["classes"]) == 11
    assert 0 < report["pixel_accuracy"] < 1
    assert len(list((folder / "runs/tiny/images/val-ms-flip").glob("*.png"))) == 4


def test_eval_takes_run_split_checkpoint_output_and_limit(folder):
    last = next((folder / "runs/tiny/checkpoints/last").iterdir())
    code, out, err = helpers.run(
        "ccnet_jax.eval",
        "--data-dir=camvid",
        "--workdir=runs/tiny",
        "--split=train",
        f"--checkpoint={last}",
        "--output=a/b.json",
        "--limit=3",
        cwd=folder,
    )
    assert code == 0, err
    assert "3 images" in out
    assert json.loads((folder / "a/b.json").read_text())["split"] == "train"


@pytest.mark.parametrize(
    ("program", "flag"),
    [
        ("train", "--workdir"),
        ("eval", "--labels"),
        ("predict", "--attention"),
        ("convert", "--source"),
        ("cost", "--inference"),
        ("explore", "--megapixels"),
        ("preview", "--crops"),
        ("prepare", "--shard-megabytes"),
    ],
)
def test_help(program, flag, folder):
    code, out, _ = helpers.told(f"ccnet_jax.{program}", "--help", cwd=folder)
    assert code == 0
    assert flag in out
    assert "python -m ccnet_jax." + program in out


@pytest.mark.parametrize(
    "name",
    [
        "attention_memory",
        "data_throughput",
        "explore_images",
        "start_time",
        "differences",
        "camvid",
        "cost",
        "model_speed",
        "on_gpu",
        "report",
        "streets_context",
        "roi_align",
        "instance_speed",
        "killed_runs",
        "stop_flag",
        "soak",
        "instance_memory",
        "streets_instances",
        "testing_memory",
    ],
)
def test_experiments_start_as_the_manual_says(name):
    code, out, err = helpers.told(f"experiments.{name}", "--help", cwd=helpers.ROOT)
    assert code == 0, err
    assert "usage: " in out
    pages = [helpers.ROOT / "README.md", *(helpers.ROOT / "docs").glob("*.md")]
    manual = " ".join(page.read_text() for page in pages).replace("\n", " ")
    assert f"python -m experiments.{name}" in manual


def test_wrong_keys_and_values_are_named(folder):
    assert_one_message(train(folder, "--config.model.dept=18"), "dept", "depth")
    assert_one_message(refused(folder, "--config.modle.depth=18"), "modle", "model")
    assert_one_message(refused(folder, "--config.steps=many"), "steps", "many")
    assert_one_message(refused(folder, "--config.model.context=resnet"), "model.context", "rcca", "psp")
    assert_one_message(refused(folder, "--stepz=4"), "stepz")
    assert_one_message(helpers.told("ccnet_jax.train", cwd=folder), "--config")
    assert_one_message(
        helpers.told("ccnet_jax.train", "--config=configs/nope.py", cwd=folder), "configs/nope.py"
    )
    with_override = ("--config", "configs/nope.py", "--config.steps=3")
    assert_one_message(helpers.told("ccnet_jax.train", *with_override, cwd=folder), "configs/nope.py")
    variant = helpers.told("ccnet_jax.train", "--config=configs/cityscapes.py:18", cwd=folder)
    assert_one_message(variant, "has no variant '18', but one of official-r101")


def test_a_config_is_named_as_a_user_would(folder):
    code, out, _ = helpers.told("ccnet_jax.train", "demo", "--config.steps", "7", "--show", cwd=folder)
    assert code == 0
    assert json.loads(out)["steps"] == 7
    changed = ("--config=configs/demo.py", "--config.data.crop=(64, 64)", "--config.data.crop=(96, 128)")
    code, out, _ = helpers.told("ccnet_jax.train", *changed, "--config.data.distort", "--show", cwd=folder)
    assert json.loads(out)["data"]["crop"] == [96, 128]  # the last one counts
    assert json.loads(out)["data"]["distort"] is True
    two = helpers.told("ccnet_jax.train", "demo", "--config=camvid", cwd=folder)
    assert_one_message(two, "two configs, camvid and demo")


def test_changes_of_the_config_are_refused_where_the_config_is_the_runs(folder):
    changed = helpers.told("ccnet_jax.eval", "runs/tiny", "--config.data.dir=/nowhere", cwd=folder)
    assert_one_message(changed, "--config.data.dir cannot be changed here")
    changed = helpers.told("ccnet_jax.predict", "a.png", "--config.model.loops=9", cwd=folder)
    assert_one_message(changed, "--config.model.loops cannot be changed here")


def test_built_in_images_lie_in_no_folder(folder):
    with pytest.raises(UserError, match="--data-dir=/nope: .* streets lie in no folder; omit it"):
        evaluation.open_images(
            helpers.load_config("demo"), RunFolder(folder), "val", "/nope", unlabelled=False
        )


def test_programs_list_what_there_is(folder):
    code, out, _ = helpers.told("ccnet_jax.train", "--list", cwd=folder)
    assert code == 0
    assert "cityscapes:mmseg-r50-769x769-80k" in out
    code, out, _ = helpers.run("ccnet_jax", cwd=folder)
    assert code == 0
    for program in ("train", "eval", "predict", "convert", "cost", "preview", "prepare"):
        assert f"ccnet {program} " in out
    code, out, _ = helpers.run("ccnet_jax", "eval", "--version", cwd=folder)
    assert (code, out) == (0, f"ccnet_jax {ccnet_jax.__version__}\n")


def test_a_run_is_resumed_by_its_name(folder):
    shutil.copytree(folder / "runs/tiny", folder / "runs/more")
    more = ("--resume", "runs/more", "--config.steps=3")
    code, out, err = helpers.run("ccnet_jax.train", *more, cwd=folder)
    assert code == 0, err
    assert "going on from step 2" in out
    before = (folder / "runs/more/config.json").read_text()
    fewer = helpers.told("ccnet_jax.train", "--resume=runs/more", "--config.steps=2", cwd=folder)
    assert_one_message(fewer, "runs/more is trained to step 3, which is beyond config.steps=2; raise")
    assert (folder / "runs/more/config.json").read_text() == before
    again = helpers.told("ccnet_jax.train", *more, "--config.model.loops=1", cwd=folder)
    assert_one_message(again, "runs/more holds a run with model.loops=2, not 1")
    assert_one_message(helpers.told("ccnet_jax.train", "--resume=nope", cwd=folder), "nope is not a run")
    versions = json.loads((folder / "runs/more/versions.json").read_text())
    assert [entry["versions"]["jax"] for entry in versions] == [jax.__version__] * 2
    (folder / "runs/latest").unlink()
    (folder / "runs/latest").symlink_to("tiny")


def test_missing_data_says_what_to_put_where(folder):
    assert_one_message(
        helpers.told("ccnet_jax.train", "--config=configs/cityscapes.py", cwd=folder),
        "data.dir",
        "leftImg8bit",
    )
    assert_one_message(refused(folder, "--config.data.dir=nowhere"), "nowhere", "images/{train,val,test}")
    assert not (folder / "nowhere").exists()


def test_missing_run_and_checkpoint(folder, tmp_path):
    assert_one_message(helpers.told("ccnet_jax.eval", cwd=tmp_path), "runs/latest", "train first")
    assert_one_message(helpers.told("ccnet_jax.eval", "nope", cwd=tmp_path), "nope is not a run")
    assert_one_message(refused(folder, "--workdir=configs/demo.py"), "configs/demo.py is a file")
    assert_one_message(
        helpers.told("ccnet_jax.eval", "--checkpoint=best", cwd=folder), "no checkpoint", "--checkpoint"
    )
    assert_one_message(helpers.told("ccnet_jax.eval", "--split=night", cwd=folder), "night")


def test_a_bad_label_met_while_training(folder, tmp_path):
    data = write_camvid(tmp_path / "camvid", images=1)
    label = data / "labels/train/0.png"
    cv2.imwrite(str(label), np.full((64, 96), 77, np.uint8))
    result = train(tmp_path, f"--config.data.dir={data}", "--workdir=run")
    assert_one_message(result, "labels/train/0.png", "77")
    cv2.imwrite(str(label), np.zeros((64, 95), np.uint8))
    result = train(
        tmp_path,
        f"--config.data.dir={data}",
        "--workdir=run",
        "--config.data.workers=1",
    )
    assert_one_message(result, "labels/train/0.png", "95x64", "96x64")


def test_a_run_stopped_and_killed_again_and_again_goes_on(folder):
    metrics, reached = folder / "runs/again/metrics.jsonl", 0
    arguments = ["--config=configs/demo.py", *TINY, *helpers.TINY_FLAGS]
    arguments += ["--workdir=runs/again", "--config.checkpoint_every=2"]
    for how, workers in ((signal.SIGKILL, 1), (signal.SIGUSR1, 1)):
        numbers = ["--config.steps=400", f"--config.data.workers={workers}"]
        process = helpers.start("ccnet_jax.train", *arguments, *numbers, cwd=folder)
        deadline = time.time() + 200
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= reached + 8):
            assert process.poll() is None, process.communicate()
            assert time.time() < deadline
            time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        assert len(children) >= workers
        if how == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, how)  # all its processes, as a terminal or a scheduler does
        out, err = process.communicate(timeout=100)
        assert not psutil.wait_procs(children, timeout=10)[1]  # none is left
        if how != signal.SIGKILL:
            assert process.returncode == 128 + how, err
            assert "goes on from there" in out
            assert "leaked" not in err
        reached = len(metrics.read_text().splitlines())
        assert reached < 400
    code, out, err = helpers.run("ccnet_jax.train", *arguments, f"--config.steps={reached + 3}", cwd=folder)
    assert code == 0, err
    assert "going on from step" in out
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, reached + 4))
