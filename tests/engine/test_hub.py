"""Networks and weights by name, from a server on this machine that speaks the hub's protocol."""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import ccnet_jax
from ccnet_jax import CCNet, share, train
from ccnet_jax import eval as evaluate
from ccnet_jax.common.errors import UserError, write_json
from ccnet_jax.config import records
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.engine import hub as our_hub
from ccnet_jax.engine import weights_file
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.config import ModelConfig
from ccnet_jax.weights import pretrained
from tests import helpers, hub_server

pytestmark = pytest.mark.slow

hub_package = pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a tiny network."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = helpers.load_config("demo", pretrained="/home/me/secret.safetensors", model__width=0.0625)
    helpers.write_run(folder, config, Streets("val"))
    return RunFolder(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub, at which the hub's package looks, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with hub_server.serving(tmp_path / "hub") as server:
        for name, value in {
            "ENDPOINT": server.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,  # the hub's own protocol for large files; this server speaks Git LFS
            "DOWNLOAD_CHUNK_SIZE": 1000,  # a part of a chunk that came is lost
        }.items():
            monkeypatch.setattr(constants, name, value)
        yield server


def assert_same(model, other):
    jax.tree.map(np.testing.assert_array_equal, model.variables, other.variables)
    assert (model.classes, model.colours, model.mode) == (other.classes, other.colours, other.mode)


def test_a_run_is_shared_as_a_folder_and_by_name(run, hub, tmp_path, monkeypatch, capsys):
    helpers.ran(monkeypatch, share, run, "--to", tmp_path / "folder")
    out = capsys.readouterr().out
    assert "is complete" in out
    assert "has no images, so there is no example" in out
    names = {"README.md", "classes.json", "config.json", "model.safetensors"}
    assert {path.name for path in (tmp_path / "folder").iterdir()} == names
    original = ccnet_jax.load(run.path)
    assert_same(ccnet_jax.load(tmp_path / "folder"), original)
    assert "secret" not in (tmp_path / "folder" / "config.json").read_text()

    helpers.ran(monkeypatch, share, run, "--to", "hf:me/tiny")
    assert {path.name for path in (hub.root / "me" / "tiny").iterdir()} == names
    assert len(hub.large) == 1  # the weights went as the hub takes large files
    assert "hf:me/tiny" in (hub.root / "me" / "tiny" / "README.md").read_text()
    assert_same(ccnet_jax.load("hf:me/tiny"), original)
    asked = len(hub.requests)
    assert_same(ccnet_jax.load(f"hf:me/tiny@{hub_server.COMMIT}"), original)
    fetched = [x for x in hub.requests[asked:] if x.startswith("GET") and "/resolve/" in x]
    assert fetched == []  # it was here

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.requests)
    assert_same(ccnet_jax.load("hf:me/tiny"), original)
    assert len(hub.requests) == asked
    with pytest.raises(UserError, match="hf:me/other is not in the cache, and the network is off"):
        ccnet_jax.load("hf:me/other")


def test_a_file_that_was_cut_off_goes_on_where_it_was(run, hub, tmp_path, monkeypatch):
    helpers.ran(monkeypatch, share, run, "--to", tmp_path / "hub" / "me" / "tiny")
    hub_package.snapshot_download("me/tiny", allow_patterns=["*.json", "README.md"])
    hub.cut_after = 200_000  # bytes of the weights
    assert_same(ccnet_jax.load("hf:me/tiny"), ccnet_jax.load(run.path))
    assert hub.ranges == ["bytes=200000-"]


def test_a_file_that_is_corrupt_on_the_way_is_noticed(run, hub, tmp_path, monkeypatch):
    helpers.ran(monkeypatch, share, run, "--to", tmp_path / "hub" / "me" / "tiny")
    right = hub_server.etag_of(tmp_path / "hub" / "me" / "tiny" / "model.safetensors")
    monkeypatch.setattr(
        hub_server, "etag_of", lambda path: right[::-1] if path.suffix == hub_server.LARGE else "a" * 40
    )
    with pytest.raises(
        UserError, match="hf:me/tiny came corrupt, and is removed from the cache; start again"
    ):
        ccnet_jax.load("hf:me/tiny")


def test_names_that_cannot_be_fetched_are_one_message(hub, monkeypatch, tmp_path):
    def problem(name):
        with pytest.raises(UserError) as raised:
            ccnet_jax.load(name)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert problem("hf:tiny") == "hf:tiny must be hf:ORG/NAME or hf:ORG/NAME@REVISION; correct the name"
    assert problem("hf:a/b/c").startswith("hf:a/b/c must be")
    assert problem("hf:a/b--c").startswith("hf:a/b--c is no name on the hub")
    assert problem("hf:me/nothing").startswith("hf:me/nothing is not on the hub, or not open to you")
    repository = hub.root / "me" / "old"
    repository.mkdir(parents=True)
    assert problem("hf:me/old@v9") == "hf:me/old@v9 has no such revision; correct what follows the @"
    (repository / "config.json").write_text("{}")
    assert problem("hf:me/old").startswith("hf:me/old has no model.safetensors; name")
    (repository / "pytorch_model.bin").write_bytes(b"x")
    assert "but pytorch_model.bin, a pickle, which could run code and is not read" in problem("hf:me/old")
    repository = hub.root / "me" / "torch"
    repository.mkdir()
    safetensors.numpy.save_file({"w": np.ones(3)}, repository / "model.safetensors")
    assert problem("hf:me/torch").startswith("hf:me/torch is no network of ccnet_jax (python -m")
    weights_file.write(repository / "model.safetensors", {"w": np.ones(3)}, None)
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert problem("hf:me/torch") == (
        "hf:me/torch is incomplete: it has no config.json; its maker must share it again"
    )
    assert problem("https://host/a.safetensors").endswith("a network on the hub is hf:ORG/NAME")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    assert problem("hf:me/nowhere").startswith(
        "hf:me/nowhere is not in the cache, and the hub cannot be reached"
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(our_hub.importlib.util, "find_spec", lambda _: None)
    assert "pip install huggingface_hub" in problem("hf:me/nowhere")


def test_uploads_that_are_refused_are_one_message(run, hub, monkeypatch):
    hub.closed = True
    with pytest.raises(UserError, match="hf:me/tiny is not yours to write, or you are not logged in"):
        helpers.ran(monkeypatch, share, run, "--to", "hf:me/tiny")


@pytest.fixture
def resnet(hub):
    """(a file that the server has, its address, its SHA-256)."""
    file = hub.root / "resnet.safetensors"
    file.parent.mkdir()
    safetensors.numpy.save_file({"w": np.arange(100_000.0)}, file)
    return file, f"{hub.address}/{file.name}", hashlib.sha256(file.read_bytes()).hexdigest()


def test_weights_at_an_address(hub, resnet):
    file, address, digest = resnet

    def located(name):
        return pretrained.locate(name, ModelConfig())

    hub.cut_after = 300_000
    found = located(f"{address}#sha256={digest}")
    assert pathlib.Path(found).read_bytes() == file.read_bytes()
    assert hub.ranges == ["bytes=300000-"]
    asked = len(hub.requests)
    assert located(f"{address}#sha256={digest}") == found
    assert len(hub.requests) == asked
    for name, message in {
        address: "is not encrypted, so anybody on the way can change it; add #sha256=DIGEST",
        f"{address}#md5=1": "after # only sha256=, and 64 hexadecimal digits",
        f"{address}#sha256={'0' * 64}": "is not the file with that SHA-256, and is removed",
        f"{hub.address}/model.pth#sha256={digest}": "is no .safetensors file; others may hold pickles",
        f"{hub.address}/none.safetensors#sha256={digest}": "cannot be fetched .the server says 404.; correct",
    }.items():
        with pytest.raises(UserError, match=message):
            located(name)


def test_no_link_of_a_run_shares_a_file_of_the_users(run, tmp_path):
    """An image that is one would be uploaded as the example."""
    secret = tmp_path / "secret"
    secret.write_text("private")
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(run.path, copy.path)
    copy.images("val").mkdir(parents=True, exist_ok=True)
    (copy.images("val") / "0.png").unlink(missing_ok=True)
    (copy.images("val") / "0.png").symlink_to(secret)
    with pytest.raises(UserError, match="0.png leads out of that folder, to .*secret"):
        share.make(copy, "last", tmp_path / "shared", "a", with_example=True)
    assert not (tmp_path / "shared").exists()


def test_several_may_want_one_file_at_once(hub, resnet):
    """As the processes of a distributed run do, which begin together."""
    file, address, digest = resnet
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(our_hub.fetched_file, [f"{address}#sha256={digest}"] * 4))
    assert len(set(found)) == 1
    assert found[0].read_bytes() == file.read_bytes()
    assert len([x for x in hub.requests if x.startswith("GET")]) == 1


def test_several_may_want_one_network_at_once(run, hub, tmp_path, monkeypatch):
    helpers.ran(monkeypatch, share, run, "--to", tmp_path / "hub" / "me" / "tiny")
    our_hub.fetch("hf:me/tiny")
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(our_hub.run_folder, ["hf:me/tiny"] * 64))
    assert len(set(found)) == 1
    names = {"README.md", "classes.json", "config.json", "model.safetensors"}
    assert {path.name for path in found[0].iterdir()} == names


def test_a_server_that_does_not_answer_is_one_message(hub, capfd):
    address = f"http://127.0.0.1:{helpers.free_port()}/a.safetensors#sha256={'0' * 64}"
    with pytest.raises(UserError, match="cannot be fetched .*; correct the address, or try again"):
        our_hub.fetched_file(address)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (ModelConfig(depth=50), "hf:timm/resnet50c.gluon_in1k"),
        (ModelConfig(depth=101), "hf:timm/resnet101c.gluon_in1k"),
        (ModelConfig(depth=18, stem="7x7"), "hf:timm/resnet18.tv_in1k"),
    ],
)
def test_imagenet_is_the_weights_that_fit_the_network(model, name, hub):
    folder = hub.root / name.removeprefix("hf:")
    folder.mkdir(parents=True)
    safetensors.numpy.save_file({"w": np.ones(3)}, folder / "model.safetensors")
    found = pretrained.locate("imagenet", model)
    assert safetensors.numpy.load_file(found)["w"].sum() == 3


@pytest.mark.parametrize("model", [ModelConfig(depth=18), ModelConfig(flavour="official")])
def test_imagenet_has_nothing_for_other_networks(model):
    with pytest.raises(
        UserError, match="mmseg deep 101, .*, not for .*; choose one of these, or name a file"
    ):
        pretrained.locate("imagenet", model)


def test_a_shared_network_is_scored_shared_again_and_no_run(run, tmp_path, monkeypatch, capsys):
    folder = RunFolder(tmp_path / "folder")
    helpers.ran(monkeypatch, share, run, "--to", folder)
    helpers.ran(monkeypatch, share, folder, "--to", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == folder.weights_file.read_bytes()
    assert "| steps behind these weights | 3 |" in (tmp_path / "again" / "README.md").read_text()
    helpers.ran(monkeypatch, evaluate, folder, "--limit", 1)
    assert folder.scores_file("val-first1").is_file()
    with pytest.raises(
        UserError, match="holds a network that was shared, and no run; choose another --workdir"
    ):
        train.train(records.load_config(folder), folder)
    variables = helpers.random_variables(CCNet(13, 10, "mmseg", width=0.0625), seed=1)
    given = ccnet_jax.load(folder.path).variables
    for source in (folder.weights_file, folder.path):
        loaded = pretrained.load_backbone(str(source), variables)
        for part in ("params", "batch_stats"):
            jax.tree.map(np.testing.assert_array_equal, loaded[part]["backbone"], given[part]["backbone"])


def test_scores_do_not_replace_a_shared_networks_weights(run, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "folder")
    helpers.ran(monkeypatch, share, run, "--to", folder)
    weights = folder.weights_file.read_bytes()
    with pytest.raises(UserError, match="would replace"):
        helpers.ran(monkeypatch, evaluate, folder, "--limit", 1, "--output", folder.weights_file)
    assert folder.weights_file.read_bytes() == weights


def test_a_network_that_its_config_does_not_describe_is_refused(run, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "folder")
    helpers.ran(monkeypatch, share, run, "--to", folder)
    config = records.load_config(folder)
    model = dataclasses.replace(config.model, context="none")
    records.save_config(folder, dataclasses.replace(config, model=model))
    with pytest.raises(
        UserError, match="is of another network than its config describes: .* should be missing"
    ):
        ccnet_jax.load(folder.path)
    folder.weights_file.write_bytes(folder.weights_file.read_bytes()[:1000])
    with pytest.raises(UserError, match="model.safetensors cannot be read .*; fetch it again"):
        ccnet_jax.load(folder.path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "pass --to DIR, or --to hf:ORG/NAME to upload"),
        (("--to", "HF:me"), "HF:me must be hf:ORG/NAME"),
        (("--to", "full"), "--to full exists and is not empty; choose a new folder"),
        (("--to", "file"), "--to file exists and is not empty; choose a new folder"),
        (("--to", "file/below"), "--to file/below lies below .*file, which is a file; name another folder"),
        (("--to", "gs://bucket/x"), "is an address, and only files of this machine are written here"),
        (("--to", "new", "--private"), "--private goes with --to hf:ORG/NAME; omit it"),
        (("--to", "hf:me"), "hf:me must be hf:ORG/NAME"),
        (("--to", "hf:me/tiny@v1"), "a revision is made by the upload; omit @v1"),
        (("--to", "new", "--checkpoint", "best"), "holds no checkpoint best; choose another"),
        (("--to", "new", "--workdir", "other"), "the command line names two runs"),
    ],
)
def test_mistakes_are_one_message(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        helpers.ran(monkeypatch, share, run, *arguments)
    assert not (tmp_path / "new").exists()


def test_the_card_says_what_the_run_recorded(run, tmp_path, monkeypatch):
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(run.path, copy.path)
    write_json(
        copy.scores_file("val"), {"split": "val", "mode": "whole", "step": 3, "images": 100, "mIoU": 0.5}
    )
    write_json(copy.scores_file("broken"), {"split": "val"})
    lines = ({"step": 2, "val/mIoU": 0.25}, {"step": 3, "val/mIoU": 0.375}, {"step": 3, "loss": 1.0})
    copy.metrics_file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    copy.add_versions()
    copy.images("val").mkdir(parents=True)
    (copy.images("val") / "a.png").write_bytes(b"an image")
    helpers.ran(monkeypatch, share, copy, "--to", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        *(
            "| val | whole | 3 | 100 | mIoU 50.00 % |",
            "| val, in training | whole | 3 | all | mIoU 37.50 % |",
            "![an example](example.png)",
            '| `data.name` | "streets" |',
        ),
        *("| device | cpu", "| commit of ccnet_jax | ", "## Licence", "license: unknown"),
    ):
        assert part in card
    assert (tmp_path / "out" / "example.png").read_bytes() == b"an image"
    helpers.ran(monkeypatch, share, tmp_path / "out", "--to", tmp_path / "again", "--no-example")
    assert "| device | cpu" in (tmp_path / "again" / "README.md").read_text()
    helpers.ran(monkeypatch, share, copy, "--to", tmp_path / "without", "--no-example")
    assert not (tmp_path / "without" / "example.png").exists()
