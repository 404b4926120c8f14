"""Results harm no file that is read, whichever program writes them, and lead out of no folder."""

import pytest

from ccnet_jax import eval, prepare, preview
from ccnet_jax.common import outputs
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.data.datasets import camvid as camvid_data
from ccnet_jax.data.fitting import classes_of_source
from ccnet_jax.data.sources import Location
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.tasks import TASKS, preparation
from tests.helpers import load_config, ran
from tests.miniatures import write_camvid, write_coco
from tests.test_instances import SMALL


def content(folder):
    """{path: bytes} of all files."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def camvid(tmp_path):
    """The folder of the data, and a run on them; its network is not needed."""
    data = write_camvid(tmp_path / "camvid", images=2)
    run = RunFolder(tmp_path / "run")
    records.save_config(run, load_config("demo", data__name="camvid", data__dir=str(data)))
    records.save_classes(run, camvid_data.LABELS)
    return data, run


@pytest.fixture
def coco(tmp_path):
    """The same of instances."""
    data = write_coco(tmp_path / "coco", number=2)
    run = RunFolder(tmp_path / "instances")
    config = load_config("coco:r50-rcca", data__dir=str(data), **SMALL)
    records.save_config(run, config)
    source = TASKS["instance"].open(config.data, "val2017")
    records.save_classes(run, classes_of_source(source))
    return data, run


def told(monkeypatch, program, *arguments):
    with pytest.raises(UserError) as error:
        ran(monkeypatch, program, *arguments)
    return str(error.value)


def test_predictions_never_replace_the_data_of_any_split(camvid, monkeypatch, tmp_path):
    data, run = camvid
    before = content(data)
    (tmp_path / "link").symlink_to(data / "labels" / "val")
    for folder in (*(data / kind / split for kind in ("labels", "images") for split in ("train", "val")),):
        said = told(monkeypatch, eval, run, "--labels", folder)
        assert f"--labels {folder} would replace {folder}/" in said
        assert "which this program reads; choose another folder" in said
    assert "would replace" in told(monkeypatch, eval, run, "--labels", tmp_path / "link")
    assert content(data) == before


def test_scores_never_replace_the_data_or_what_a_run_is_made_of(camvid, coco, monkeypatch):
    for data, run in (camvid, coco):
        before = content(data) | content(run.path)
        for path in before:
            said = told(monkeypatch, eval, run, "--output", path)
            assert said.endswith(
                f"{path.name} would replace a file that this program reads; name another file"
            )
        assert content(data) | content(run.path) == before


def test_training_in_the_folder_of_the_data_replaces_none_of_them(tmp_path):
    """Where the data's images lie in the folder that a run has for its own."""
    data = write_camvid(tmp_path / "camvid", images=2)
    (data / "images").rename(data / "images")
    config = load_config("folder", data__dir=str(data))
    sources = [TASKS["semantic"].open(config.data, split) for split in ("train", "val")]
    before = content(data)
    with pytest.raises(
        UserError, match=r"--workdir .*camvid would replace .*/images/.*0.png, which this pro"
    ):
        preparation.prepare_folder(config, *sources, RunFolder(data))
    assert content(data) == before
    preparation.prepare_folder(config, *sources, RunFolder(tmp_path / "elsewhere"))


def test_a_preview_is_a_png_and_replaces_no_image(camvid, coco, monkeypatch, tmp_path):
    for (data, _), config, image in (
        (camvid, "camvid", "images/train/0.png"),
        (coco, "coco", "train2017/000000000000.png"),
    ):
        flags = ("--config", config, f"--config.data.dir={data}", "--output")
        assert "would replace a file" in told(monkeypatch, preview, *flags, data / image)
        said = told(monkeypatch, preview, *flags, tmp_path / "x.jpg")
        assert said.endswith("x.jpg must end in .png: no other kind is written")
        assert "is a folder; name another file" in told(monkeypatch, preview, *flags, tmp_path)


def test_what_cannot_be_written_is_known_before_the_network_is_loaded(camvid, monkeypatch, tmp_path):
    _, run = camvid
    (tmp_path / "file").write_text("x")
    below = f"lies below {tmp_path / 'file'}, which is a file"
    for flag, kind in (("--output", "file"), ("--labels", "folder")):
        said = told(monkeypatch, eval, run, flag, tmp_path / "file" / "x")
        assert said == f"{flag} {tmp_path / 'file' / 'x'} {below}; name another {kind}"
    assert "is a folder; name another file" in told(monkeypatch, eval, run, "--output", tmp_path)
    assert "is a file; name another folder" in told(monkeypatch, eval, run, "--labels", tmp_path / "file")


def test_links_in_a_folder_of_results_lead_nowhere_else(camvid, monkeypatch, tmp_path):
    data, run = camvid
    precious = tmp_path / "precious"
    precious.write_text("mine")
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "0.png").symlink_to(precious)
    said = told(monkeypatch, eval, run, "--labels", labels)
    assert f"{labels / '0.png'} leads out of that folder, to {precious}; remove that link" in said
    for link in (run.scores_file("val"), run.images("val")):  # of a run that came from elsewhere
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(precious)
        assert "leads out of that folder" in told(monkeypatch, eval, run)
        link.unlink()
    unfinished = tmp_path / "out" / "camvid" / "1.0.0.incomplete"
    unfinished.mkdir(parents=True)
    (unfinished / "features.json").symlink_to(precious)
    with pytest.raises(UserError, match=r"features.json leads out of that folder, to .*precious"):
        prepare.prepare("camvid", Location(dir=str(data)), str(tmp_path / "out"))
    assert precious.read_text() == "mine"


def test_links_that_stay_in_the_folder_and_a_folder_that_is_a_link_are_fine(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_text("x")
    (tmp_path / "there" / "b").symlink_to("a")
    (tmp_path / "link").symlink_to("there")
    outputs.check_folder("--out", tmp_path / "link", ["a", "b", "c"], [tmp_path / "other"])
    for kept in (tmp_path / "there" / "a", tmp_path / "link" / "a", tmp_path / "link" / "b"):
        with pytest.raises(UserError, match="would replace"):
            outputs.check_folder("--out", tmp_path / "link", ["b"], [kept])
    with pytest.raises(UserError, match="leads out of that folder"):
        outputs.check_folder("--out", tmp_path / "link", ["../a"])
