"""The program that labels images: files in, files out."""

import numpy as np
import pytest
from PIL import Image

import ccnet_jax
from ccnet_jax import predict
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import command_line
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.data.user_images import read_image
from ccnet_jax.tasks.semantic_model import write_results
from tests import helpers
from tests.miniatures import ORIENTATION, scene, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """runs/demo, and images/ of several kinds and sizes."""
    folder = tmp_path_factory.mktemp("user")
    helpers.write_run(folder / "runs/demo", helpers.load_config("demo"), Streets("val"))
    image, _ = scene(0, 48, 80)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    write(folder / "images/colour.png", image)
    write(folder / "images/turned.jpg", image, exif=exif, quality=95)
    write(folder / "images/grey.jpg", image[..., 1].copy(), quality=95)
    (folder / "images/notes.txt").write_text("no image")
    return folder


def test_a_folder_is_labelled(folder):
    code, out, err = helpers.run(
        "ccnet_jax.predict", "images", "--workdir=runs/demo", "--out=labels", cwd=folder
    )
    assert code == 0, err
    assert "3 images labelled in labels" in out
    assert "100%" in err  # the progress bar
    kinds = ("", "-overlay", "-figure")
    names = {f"{name}{kind}.png" for name in ("colour", "turned", "grey") for kind in kinds}
    assert {path.name for path in (folder / "labels").iterdir()} == names
    model = ccnet_jax.load(folder / "runs/demo")
    for name, size in (("colour.png", (48, 80)), ("turned.jpg", (80, 48)), ("grey.jpg", (48, 80))):
        stem = name.split(".")[0]
        with Image.open(folder / "labels" / f"{stem}.png") as label:
            assert label.mode == "P"
            ids = np.array(label)
            colours = np.array(label.convert("RGB"))
        assert ids.shape == size
        prediction = model.predict(folder / "images" / name)
        assert (ids == prediction.label).mean() > 0.999
        np.testing.assert_array_equal(colours, model.palette[ids])
        overlay = np.array(Image.open(folder / "labels" / f"{stem}-overlay.png"))
        assert (overlay == prediction.overlay).mean() > 0.99


def test_attention_and_loops_are_drawn_too(folder, tmp_path):
    model = ccnet_jax.load(folder / "runs/demo")
    path = folder / "images/colour.png"
    write_results(model, read_image(path), tmp_path / "a", point=(20, 30), loops=(1, 2))
    kinds = ("", "-overlay", "-figure", "-attention", "-loops")
    assert {path.name for path in tmp_path.iterdir()} == {f"a{kind}.png" for kind in kinds}
    width = 80 * 4 + 6  # enlarged to 320 pixels
    assert Image.open(tmp_path / "a-attention.png").width == 3 * width - 6
    assert Image.open(tmp_path / "a-loops.png").width == 3 * width - 6
    once, twice = (model.replace(network=model.network.clone(loops=n)).predict(path).label for n in (1, 2))
    assert (once != twice).any()


def test_mistakes_are_one_message_and_leave_nothing(folder, tmp_path):
    for arguments, words in (
        ((), "name the images or folders to label"),
        (("images", "--workdir=runs/other"), "runs/other is not a run"),
        (
            ("gone.png", "--workdir=runs/demo"),
            "gone.png does not exist; name images",
        ),
    ):
        code, _, err = helpers.run("ccnet_jax.predict", *arguments, "--out=nothing", cwd=folder)
        assert code == 2
        assert words in err
        assert "Traceback" not in err
    assert not (folder / "nothing").exists()


def test_which_images(folder, tmp_path):
    found = predict.images((str(folder / "images"),))
    assert list(found) == ["colour", "grey", "turned"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no image .*.jpg"):
        predict.images((str(tmp_path / "empty"),))
    image, _ = scene(0, 32, 32)
    for name in ("a.png", "a.jpg", "._a.jpg"):
        write(tmp_path / "twice" / name, image)
    assert list(predict.images((str(tmp_path / "twice"),))) == ["a-jpg", "a-png"]
    assert len(predict.images((str(tmp_path / "twice"), str(tmp_path / "twice")))) == 2


def test_results_never_replace_what_is_read(folder, tmp_path, monkeypatch):
    def told(*arguments):
        with pytest.raises(UserError) as error:
            helpers.ran(monkeypatch, predict, *arguments, "--workdir", folder / "runs/demo")
        return str(error.value)

    image, _ = scene(0, 32, 32)
    write(tmp_path / "a.png", image)
    assert "would replace" in told(tmp_path, "--out", tmp_path)
    write(tmp_path / "config.png", image)  # whose objects would lie in config.json
    own = told(tmp_path / "config.png", "--out", folder / "runs/demo")
    assert "config.json, which this program reads; choose another folder" in own
    assert "a.png is a file; name another folder" in told(tmp_path, "--out", tmp_path / "a.png")


def test_images_that_cannot_be_read_do_not_stop_the_others(folder, tmp_path, monkeypatch, capsys):
    image, _ = scene(0, 48, 80)
    for name in ("a.png", "c.png"):
        write(tmp_path / "in" / name, image)
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:200])
    write(tmp_path / "in" / "small.png", image[:20, :20])
    run = ("--workdir", folder / "runs/demo", "--out", tmp_path / "out", "--attention", "40,70")
    with pytest.raises(SystemExit) as end:
        helpers.ran(monkeypatch, predict, tmp_path / "in", *run)
    assert end.value.code == 1
    said = capsys.readouterr()
    assert "2 images labelled in" in said.out
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert errors[0].endswith("b.png is corrupt or not an image (200 bytes); fetch or unpack that file again")
    assert errors[1].endswith("small.png has 20 rows and 20 columns, and no pixel (40, 70)")
    assert len(errors) == 2
    labels = {path.name for path in (tmp_path / "out").glob("?.png")}
    assert labels == {"a.png", "c.png"}
    with pytest.raises(UserError, match="b.png is corrupt"):  # there is no other
        helpers.ran(monkeypatch, predict, tmp_path / "in" / "b.png", *run)


def test_numbers():
    assert command_line.whole_numbers("--attention", "200,310", "ROW,COLUMN") == (200, 310)
    assert command_line.whole_numbers("--loops", "1,2,3", "N,...") == (1, 2, 3)
    for text, wanted in (
        ("1,2,3", "ROW,COLUMN"),
        ("5", "ROW,COLUMN"),
        ("a,b", "ROW,COLUMN"),
        ("1,,2", "N,..."),
    ):
        with pytest.raises(UserError, match=f"--flag={text} must be {wanted}"):
            command_line.whole_numbers("--flag", text, wanted)
