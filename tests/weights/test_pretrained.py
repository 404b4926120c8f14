import importlib.util
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from ccnet_jax import CCNet, train
from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.checkpoints import Checkpoints, load_variables, variables_like
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.tasks import semantic
from ccnet_jax.training.step import GUARDED
from ccnet_jax.weights.pretrained import check_path, load_backbone
from tests.helpers import RunsCode, load_config
from tests.miniatures import write_camvid

pytestmark = pytest.mark.slow

HERE = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HERE, reason="PyTorch is not installed")

# module of the stem -> its name in each naming
STEMS = {
    naming: dict(zip([f"stem_{part}{i}" for i in (1, 2, 3) for part in ("conv", "norm")], names, strict=True))
    for naming, names in {
        "official": ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"),
        "mmseg": ("stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"),
        "timm": ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"),
    }.items()
}
PARTS = {"downsample_conv": "downsample.0", "downsample_norm": "downsample.1"}
PARTS |= {
    f"{ours}{i}": f"{theirs}{i}" for ours, theirs in (("conv", "conv"), ("norm", "bn")) for i in (1, 2, 3)
}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def random_variables(depth=50, flavour="official", seed=0):
    """NumPy variables of a network of an eighth of the width, no two values equal."""
    like = variables_like(CCNet(3, depth, flavour, width=0.125), devices.data_mesh(jax.devices()[:1]))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(np.float32), like)


def as_torch(variables, naming="official", prefix=""):
    """The backbone as a PyTorch state dict, with a classifier and counters that a user's file has too."""
    state = {prefix + "bn1.num_batches_tracked": np.array(5), "fc.weight": np.ones((10, 4), np.float32)}
    for kind in ("params", "batch_stats"):
        for module, parts in variables[kind]["backbone"].items():
            if module.startswith("stem"):
                parts, names = {module: parts}, STEMS[naming]
            else:
                names = {ours: f"{module.replace('_', '.')}.{theirs}" for ours, theirs in PARTS.items()}
            for part, leaves in parts.items():
                for leaf, value in leaves.items():
                    value = np.ascontiguousarray(
                        np.moveaxis(value, (2, 3), (1, 0)) if value.ndim == 4 else value
                    )
                    state[f"{prefix}{names[part]}.{LEAVES[leaf]}"] = value
    return state


def saved(state, path):
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(state, path)
    else:
        import torch

        torch.save(jax.tree.map(torch.tensor, state), path)
    return str(path)


def assert_backbone_of(got, wanted, rest):
    """The backbone equals `wanted`'s, everything else `rest`'s."""
    got, wanted, rest = map(traverse_util.flatten_dict, (got, wanted, rest))
    assert list(got) == list(rest)
    for key, value in got.items():
        np.testing.assert_array_equal(value, (wanted if key[1] == "backbone" else rest)[key])
        assert value.dtype == np.float32


def refused(path, variables):
    """The message."""
    with pytest.raises(UserError) as error:
        load_backbone(str(path), variables)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pth", marks=needs_torch)])
@pytest.mark.parametrize(
    ("naming", "prefix", "wrapper"),
    [
        ("official", "module.", "state_dict"),
        ("mmseg", "backbone.", "model"),
        ("mmseg", "", None),
        ("timm", "", None),
    ],
)
def test_every_naming_lands_where_it_should(tmp_path, capsys, naming, prefix, wrapper, suffix):
    flavour = "mmseg" if naming == "mmseg" else "official"
    theirs, ours = random_variables(50, flavour, seed=1), random_variables(50, flavour, seed=2)
    state = as_torch(theirs, naming, prefix)
    state |= {"decode_head.conv_seg.weight": np.ones(2, np.float32), "odd.weight": np.ones(3, np.float32)}
    if wrapper and suffix == ".pth":
        state = {wrapper: state, "epoch": np.array(3)}
    path = saved(state, tmp_path / f"weights{suffix}")
    assert_backbone_of(load_backbone(path, ours), theirs, ours)
    count = sum(len(jax.tree.leaves(theirs[kind]["backbone"])) for kind in theirs)
    assert capsys.readouterr().out == f"backbone from {path}: {count} tensors; not used: odd.weight\n"


def test_a_run_or_its_checkpoint_gives_its_backbone(tmp_path, capsys):
    theirs, ours = random_variables(10, seed=1), random_variables(10, seed=2)
    best = jax.tree.map(lambda x: x + 1, theirs)
    with Checkpoints(RunFolder(tmp_path / "run")) as checkpoints:
        checkpoints.save_best(5, jax.tree.map(jnp.asarray, best), 0.5)
        checkpoints.save_last(7, jax.tree.map(jnp.asarray, theirs), {"momentum": jnp.zeros(1)})
    assert_backbone_of(load_backbone(str(tmp_path / "run"), ours), theirs, ours)
    assert "not used" not in capsys.readouterr().out
    assert_backbone_of(load_backbone(str(tmp_path / "run/checkpoints/best"), ours), best, ours)
    assert_backbone_of(load_backbone(str(tmp_path / "run/checkpoints/best/5"), ours), best, ours)
    words = refused(tmp_path / "run", random_variables(18))
    assert "holds a ResNet-10, the config asks for a ResNet-18" in words
    other = random_variables(10)
    other["params"]["backbone"]["stem_conv1"]["kernel"] = np.zeros((3, 3, 3, 16), np.float32)
    words = refused(tmp_path / "run", other)
    assert "params/backbone/stem_conv1/kernel" in words
    assert "3x3x3x8 where this network needs 3x3x3x16" in words
    (tmp_path / "empty").mkdir()
    assert "without a checkpoint" in refused(tmp_path / "empty", ours)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path):
    ours = random_variables()
    good = as_torch(random_variables(seed=1))

    def words(changes, without=()):
        state = {name: value for name, value in good.items() if name not in without}
        return refused(saved(state | changes, tmp_path / "w.safetensors"), ours)

    name = "layer2.0.downsample.0.weight"
    said = words({name: np.ones((64, 32, 3, 3), np.float32)})
    for word in (name, "w.safetensors", "64x32x3x3", "64x32x1x1", "config.model.flavour"):
        assert word in said
    assert "layer4.2.bn3.running_var (256)" in words({}, ["layer4.2.bn3.running_var"])
    assert "conv1.weight (8x3x3x3)" in words({}, ["conv1.weight"])
    ruined = good[name].copy()
    ruined[3, 2] = np.nan
    said = words({name: ruined})
    assert name in said
    assert "not finite" in said
    said = words({"conv1.weight": np.ones((64, 3, 7, 7), np.float32)}, ["conv2.weight", "conv3.weight"])
    for word in ("7x7 stem", "64x3x7x7", "resnet50_v1c"):
        assert word in said
    assert "ResNet-D" in words({"layer1.0.downsample.2.weight": np.ones(32, np.float32)})
    assert "no ResNet with a deep stem" in refused(
        saved({"blocks.0.weight": np.ones(2)}, tmp_path / "vit.safetensors"), ours
    )


def test_another_backbone_than_a_resnet_takes_no_file_of_pytorch(tmp_path):
    theirs = random_variables(10)
    path = saved(as_torch(theirs), tmp_path / "w.safetensors")
    other = {"params": {"backbone": {"patches": {"kernel": np.zeros((4, 4, 3, 8), np.float32)}}}}
    assert "understood for config.model.backbone=resnet only" in refused(path, other)


def test_another_depth_is_told_by_name(tmp_path):
    path = saved(as_torch(random_variables(101)), tmp_path / "w.safetensors")
    assert "holds a ResNet-101, the config asks for a ResNet-50" in refused(path, random_variables())
    path = saved(as_torch(random_variables(34)), tmp_path / "w.safetensors")
    assert "holds a ResNet-34, the config asks for a ResNet-50" in refused(path, random_variables())
    state = as_torch(random_variables(50))
    cut = {name: value for name, value in state.items() if not name.startswith("layer3.5")}
    path = saved(cut, tmp_path / "w.safetensors")
    assert "a ResNet of 3, 4, 5, 3 bottleneck blocks" in refused(path, random_variables())


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    ours = random_variables(10)
    assert "does not exist" in refused(tmp_path / "nowhere.pth", ours)
    (tmp_path / "w.npz").write_bytes(b"")
    assert "of no known kind" in refused(tmp_path / "w.npz", ours)
    (tmp_path / "w.safetensors").write_bytes(b"hello")
    assert "cannot be read as .safetensors" in refused(tmp_path / "w.safetensors", ours)
    (tmp_path / "w.pth").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"w.pth .*pip install torch.*\.safetensors"):
        check_path(str(tmp_path / "w.pth"))


@needs_torch
def test_a_pickle_runs_no_code_and_corrupt_files_are_told(tmp_path):
    import torch

    ours, path = random_variables(10), tmp_path / "w.pth"
    torch.save({"state_dict": {"conv1.weight": RunsCode(tmp_path / "marker")}}, path)
    assert "is not run" in refused(path, ours)
    assert not (tmp_path / "marker").exists()
    for content in (b"", b"garbage", path.read_bytes()[:200]):
        path.write_bytes(content)
        assert str(path) in refused(path, ours)
    torch.save([torch.ones(3)], path)
    assert "no ResNet with a deep stem" in refused(path, ours)


def test_training_starts_from_the_backbone_and_goes_on_without_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = {"data__name": "camvid", "data__dir": str(write_camvid(tmp_path / "camvid")), "batch_size": 2}
    settings |= {"log_every": 1, "eval_every": 0, "checkpoint_every": 100, "data__crop": (48, 64)}
    weights = tmp_path / "weights"
    settings["pretrained"] = str(weights / "w.safetensors")
    with pytest.raises(UserError, match="pretrained=.*does not exist"):
        train.train(load_config("demo", steps=1, **settings), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()

    def make_step(*_):  # which changes nothing: the real one would be compiled
        metrics = dict.fromkeys(GUARDED, jnp.float32(0))
        return jax.jit(lambda state, batch: (state.replace(step=state.step + 1), metrics))

    monkeypatch.setattr(train, "make_train_step", make_step)
    monkeypatch.setattr(semantic, "evaluate", lambda *_, drawings, **__: drawings.mkdir(parents=True))
    theirs = random_variables(10, "mmseg")
    weights.mkdir()
    saved(as_torch(theirs, "timm"), weights / "w.safetensors")
    train.train(load_config("demo", steps=1, **settings), RunFolder(tmp_path / "run"))
    assert f"backbone from {weights / 'w.safetensors'}: " in capsys.readouterr().out
    like = variables_like(CCNet(11, 10, "mmseg", width=0.125), devices.data_mesh())
    after, step = load_variables(RunFolder(tmp_path / "run"), "last", like)
    assert step == 1
    for kind in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, after[kind]["backbone"], theirs[kind]["backbone"])
    kernel = theirs["params"]["head"]["before"]["conv"]["kernel"]
    assert (after["params"]["head"]["before"]["conv"]["kernel"] != kernel).any()
    shutil.rmtree(weights)
    train.train(load_config("demo", steps=1, **settings), RunFolder(tmp_path / "run"))
    assert "nothing to train" in capsys.readouterr().out
