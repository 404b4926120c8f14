import dataclasses
import importlib.util
import json
import struct
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

from ccnet_jax import CCNet, convert, train
from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import config as configuration
from ccnet_jax.config import records
from ccnet_jax.config.recipes import RECIPES
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.engine import checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.backbones import BACKBONES
from ccnet_jax.models.config import build_network
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.tasks import semantic
from ccnet_jax.weights import tensor_files, values
from ccnet_jax.weights.checkpoint_meta import CheckpointMeta, data_set_of, read_meta
from ccnet_jax.weights.import_config import classes_from_weights
from ccnet_jax.weights.naming import Naming
from ccnet_jax.weights.pretrained import load_backbone
from ccnet_jax.weights.torch_export import export_weights
from ccnet_jax.weights.torch_import import import_weights
from tests import helpers
from tests.helpers import load_config
from tests.miniatures import write_camvid
from tests.weights.state_dicts import (
    backbone_shapes,
    filled,
    random_state,
    saved,
    scaled,
    state_shapes,
    stem_of,
)

pytestmark = pytest.mark.slow

HERE = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HERE, reason="PyTorch is not installed")
METRICS = ("loss", "main_loss", "auxiliary_loss", "gradient_norm", "parameter_norm")
EACH_FORMAT = pytest.mark.parametrize("suffix", [".safetensors", pytest.param(".pth", marks=needs_torch)])


def imported(path, out, source=None, in_place=None, recipe=None, overrides=None):
    """(config, flat variables, step) of the run that the file becomes."""
    import_weights(path, out, source, in_place, recipe, overrides)
    return run_in(out)


def exported(folder, out, which="last", in_place=False):
    """The file that a run's weights become."""
    export_weights(RunFolder.at(folder), out, which, in_place)
    return tensor_files.read(out)


def run_in(folder):
    run = RunFolder.at(folder)
    config = records.load_config(run)
    network = build_network(config.model, len(records.load_classes(run).names), config.dtype)
    like = checkpoints.variables_like(network, devices.data_mesh(jax.devices()[:1]))
    variables, step = checkpoints.load_variables(run, "last", like)
    return config, traverse_util.flatten_dict(variables, sep="/"), step


def assert_states_equal(got, wanted):
    assert sorted(got) == sorted(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape, name
        np.testing.assert_array_equal(got[name], value, name)


def refused(*arguments, **options):
    """The message."""
    with pytest.raises(UserError) as error:
        imported(*arguments, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


# -------------------------------------------------------------------------------------------- conversion
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("depth", [50, 101])
def test_the_names_are_those_of_the_published_networks(flavour, depth):
    shapes = state_shapes(flavour, depth)
    trained = {name: shape for name, shape in shapes.items() if "running" not in name and "num_" not in name}
    published = {("official", 50): 52_295_783, ("official", 101): 71_287_911}
    published |= {("mmseg", 50): 49_826_055, ("mmseg", 101): 68_818_183}
    assert sum(int(np.prod(shape)) for shape in trained.values()) == published[flavour, depth]
    # and ours, one for one
    model = CCNet(19, depth, flavour)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), np.uint8)
    like = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))
    naming = Naming.of_flavour(flavour, "deep")
    wanted = {naming.name(key): naming.shape(key, value.shape) for key, value in like.items()}
    assert wanted == {name: shape for name, shape in shapes.items() if "num_" not in name}


PLACES = {  # our variable: its name in either
    "params/backbone/stem_conv2/kernel": ("conv2.weight", "backbone.stem.3.weight"),
    "batch_stats/backbone/stem_norm3/var": ("bn3.running_var", "backbone.stem.7.running_var"),
    "params/backbone/layer3_0/conv2/kernel": ("layer3.0.conv2.weight", "backbone.layer3.0.conv2.weight"),
    "params/backbone/layer4_0/downsample_norm/bias": (
        "layer4.0.downsample.1.bias",
        "backbone.layer4.0.downsample.1.bias",
    ),
    "params/head/before/conv/kernel": ("head.conva.0.weight", "decode_head.convs.0.conv.weight"),
    "batch_stats/head/before/norm/mean": ("head.conva.1.running_mean", "decode_head.convs.0.bn.running_mean"),
    "params/head/context/rcca/attention/query/kernel": (
        "head.cca.query_conv.weight",
        "decode_head.cca.query_conv.weight",
    ),
    "params/head/context/rcca/attention/key/bias": (
        "head.cca.key_conv.bias",
        "decode_head.cca.key_conv.bias",
    ),
    "params/head/context/rcca/attention/value/kernel": (
        "head.cca.value_conv.weight",
        "decode_head.cca.value_conv.weight",
    ),
    "params/head/context/rcca/attention/gamma": ("head.cca.gamma", "decode_head.cca.gamma.scale"),
    "params/head/after/norm/bias": ("head.convb.1.bias", "decode_head.convs.1.bn.bias"),
    "params/head/fuse/conv/kernel": ("head.bottleneck.0.weight", "decode_head.conv_cat.conv.weight"),
    "params/head/classifier/kernel": ("head.bottleneck.3.weight", "decode_head.conv_seg.weight"),
    "params/auxiliary_head/conv/conv/kernel": ("dsn.0.weight", "auxiliary_head.convs.0.conv.weight"),
    "batch_stats/auxiliary_head/conv/norm/var": (
        "dsn.1.running_var",
        "auxiliary_head.convs.0.bn.running_var",
    ),
    "params/auxiliary_head/classifier/bias": ("dsn.3.bias", "auxiliary_head.conv_seg.bias"),
}


@pytest.mark.parametrize(
    ("flavour", "prefix", "suffix"),
    [
        ("official", "module.", ".safetensors"),
        ("mmseg", "", ".safetensors"),
        ("mmseg", "_orig_mod.module.", ".safetensors"),
        ("official", "model.net.", ".safetensors"),
        pytest.param("official", "", ".pth", marks=needs_torch),
        pytest.param("mmseg", "module.", ".pth", marks=needs_torch),
    ],
)
def test_a_checkpoint_becomes_a_run_and_the_way_back_is_exact(tmp_path, capsys, flavour, prefix, suffix):
    state = random_state(flavour, prefix=prefix)
    if flavour == "official":  # of a port with PyTorch's own batch norm
        counters = {n.replace("running_var", "num_batches_tracked") for n in state if "running_var" in n}
        state |= dict.fromkeys(counters, np.array(0, np.int64))
    path = saved(state | {"odd.weight": np.ones(3, np.float32)}, tmp_path / f"w{suffix}")
    config, variables, step = imported(path, tmp_path / "run", source=flavour)
    out = capsys.readouterr().out
    assert "ResNet-10 of 0.0625 times the width with the deep stem, 19 classes" in out
    counted = sum("num_batches" in name for name in state)
    assert f"{len(state) - counted} of its {len(state) + 1} tensors used" in out
    assert f"{counted} counters of batches; not used: odd.weight" in out
    model = config.model
    assert (model.flavour, model.depth, model.width) == (flavour, 10, 1 / 16)
    assert (model.stem, model.loops) == ("deep", 2)
    assert (config.data.name, step) == ("cityscapes", 0)
    for ours, names in PLACES.items():
        value = state[prefix + names[flavour == "mmseg"]]
        if value.ndim == 4:
            value = value.transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(variables[ours], value.reshape(variables[ours].shape), ours)

    back = tmp_path / f"back{suffix}"
    tensors, _ = exported(tmp_path / "run", back)
    assert_states_equal({prefix + name: value for name, value in tensors.items()}, state)
    _, again, _ = imported(back, tmp_path / "again")
    assert all((again[name] == value).all() for name, value in variables.items())
    if flavour == "mmseg":
        assert records.load_classes(RunFolder(tmp_path / "again")).names[:2] == ("road", "sidewalk")


def test_in_place_norms(tmp_path, capsys):
    state = random_state("official")
    path = saved(state, tmp_path / "w.safetensors")
    _, variables, _ = imported(path, tmp_path / "run")
    assert "in-place ABN" in capsys.readouterr().out
    weight = state["layer4.0.bn2.weight"]
    assert (weight < 0).any()
    got = variables["params/backbone/layer4_0/norm2/scale"]
    np.testing.assert_array_equal(got, np.abs(weight) + np.float32(1e-5))
    _, plain, _ = imported(path, tmp_path / "plain", in_place=False)
    np.testing.assert_array_equal(plain["params/backbone/layer4_0/norm2/scale"], weight)

    tensors, _ = exported(tmp_path / "run", tmp_path / "back.safetensors", in_place=True)
    assert sorted(tensors) == sorted(state)
    np.testing.assert_allclose(tensors["layer4.0.bn2.weight"], np.abs(weight), atol=1e-7)
    _, again, _ = imported(tmp_path / "back.safetensors", tmp_path / "again")
    assert all((again[name] == value).all() for name, value in variables.items())
    with pytest.raises(UserError, match="scale holds scales below 1e-5.*omit --inplace-abn"):
        exported(tmp_path / "plain", tmp_path / "b.safetensors", in_place=True)


def test_scales_from_1e_minus_5_have_an_in_place_weight():
    rng = np.random.default_rng(0)
    scale = np.exp(rng.uniform(np.log(1e-5), np.log(100), 200_000)).astype(np.float32)
    scale = scale[scale >= np.float32(1e-5)]
    weight = values.in_place_weight(scale)
    assert (weight >= 0).all()
    back = values.in_place_scale(weight)
    np.testing.assert_array_almost_equal_nulp(back, scale, 1)
    exact = (scale < 7e-5) | (scale > 12.3e-5)
    np.testing.assert_array_equal(back[exact], scale[exact])
    assert np.isnan(values.in_place_weight(np.float32([9e-6, 0, -1]))).all()


CCHEAD = """model = dict(
    decode_head=dict(
        type='CCHead',
        recurrence={},
        align_corners={}),
)"""


@EACH_FORMAT
def test_what_mmsegmentation_notes_is_used(tmp_path, suffix):
    meta = {"CLASSES": ["ground", "tree", "lake"], "PALETTE": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}
    meta |= {"config": CCHEAD.format(3, True), "iter": 7}
    path = saved(random_state("mmseg", classes=3), tmp_path / f"w{suffix}", meta)
    config, _, _ = imported(path, tmp_path / "run")
    assert (config.model.loops, config.model.align_corners) == (3, True)
    assert (config.data.name, config.data.source) == ("unknown", "tfds")
    assert config.data.classes == ("ground", "tree", "lake")
    classes = records.load_classes(RunFolder(tmp_path / "run"))
    assert (classes.names, classes.palette.tolist()) == (("ground", "tree", "lake"), meta["PALETTE"])
    back = tmp_path / f"back{suffix}"
    _, noted = exported(tmp_path / "run", back)
    assert noted["CLASSES"] == noted["dataset_meta"]["classes"] == meta["CLASSES"]
    assert noted["PALETTE"] == meta["PALETTE"]
    again, _, _ = imported(back, tmp_path / "again")
    assert again == config


def test_notes_that_make_no_sense_are_not_used():
    wrong = {"CLASSES": ["a"], "PALETTE": [[1, 2, 300]] * 2, "config": 3, "dataset_meta": []}
    assert read_meta(wrong, 2) == CheckpointMeta()
    half = {"dataset_meta": {"classes": ("a", "b"), "palette": "x"}, "cfg": "recurrence=1"}
    assert read_meta(half, 2) == CheckpointMeta(classes=("a", "b"), loops=1)


def test_data_sets_are_known_by_names_or_number():
    known = [data_set_of(count, None) for count in (19, 150, 21, 7)]
    assert known == ["cityscapes", "ade20k", "voc2012", None]
    voc = (
        "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike"
    )
    voc += " person pottedplant sheep sofa train tvmonitor"
    assert data_set_of(21, tuple(voc.split())) == "voc2012"
    ade20k = DATASETS["ade20k"].classes.names
    assert data_set_of(150, tuple(f" {name.upper()}" for name in ade20k)) == "ade20k"
    assert data_set_of(19, tuple(f"class {i}" for i in range(19))) is None


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc12aug", "camvid"])
def test_classes_of_a_known_data_set_have_its_names_and_numbers(name):
    """However the checkpoint spells them: by their names `eval` finds them in the data."""
    config = load_config(name)
    known = DATASETS[config.data.name].classes
    count, spelled = len(known.names), tuple(f" {x.upper().replace(' ', '')}" for x in known.names)
    turned = (spelled[1], spelled[0], *spelled[2:])
    unknown = (*spelled[:-1], "x")  # in the place of the last
    palette = np.arange(3 * count, dtype=np.uint8).reshape(count, 3)
    for meta in (CheckpointMeta(), CheckpointMeta(spelled), CheckpointMeta(unknown, palette)):
        found = classes_from_weights(config, count, meta)
        assert found.names == known.names
        np.testing.assert_array_equal(found.numbers, known.numbers)
        np.testing.assert_array_equal(found.palette, known.palette if meta.palette is None else palette)
    found = classes_from_weights(config, count, CheckpointMeta(turned))
    assert found.names == (known.names[1], known.names[0], *known.names[2:])
    np.testing.assert_array_equal(found.palette[:2], known.palette[[1, 0]])
    assert found.numbers[:2].tolist() == known.numbers[[1, 0]].tolist()
    found = classes_from_weights(config, count, CheckpointMeta(("y", *spelled[2:], spelled[0])))
    assert found.names[0] == "y"  # no class of the data set: `eval` says so


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_a_recipe_the_weights_get_that_of_their_flavour(tmp_path, flavour):
    path = saved(random_state(flavour, classes=21), tmp_path / "w.safetensors")
    config, _, _ = imported(path, tmp_path / "run", overrides={"model.loops": "3", "steps": "77"})
    wanted = RECIPES[flavour]()
    changed = {"data.name": "voc2012", "data.crop": (512, 512), "data.workers": 4, "steps": 77}
    changed |= {"model.depth": 10, "model.width": 1 / 16, "model.loops": 3}
    wanted.update_from_flattened_dict(changed)
    assert config == configuration.parse(wanted)
    with pytest.raises(UserError, match="optimizer.learning_rat does not exist.*did you mean"):
        imported(path, tmp_path / "other", overrides={"optimizer.learning_rat": "1"})
    with pytest.raises(UserError, match="set --config.model.depth=10"):
        imported(path, tmp_path / "other", overrides={"model.depth": "50"})


def test_a_recipe_must_agree_with_the_weights(tmp_path):
    path = saved(
        random_state("mmseg", classes=11), tmp_path / "w.safetensors", {"cfg": CCHEAD.format(1, False)}
    )
    fits = {"data__name": "camvid", "model__width": 1 / 16, "model__loops": 1}

    def recipe(**changes):
        return load_config("demo", **{**fits, **changes})

    config, _, _ = imported(path, tmp_path / "run", recipe=recipe(steps=77))
    assert (config.steps, config.data.name, config.model.loops) == (77, "camvid", 1)
    for changes, words in (
        ({"model__depth": 18}, "model.depth=18, the weights in .* 10; .*--config.model.depth=10"),
        ({"model__flavour": "official"}, "--config.model.flavour=mmseg"),
        ({"model__width": 1.0}, "--config.model.width=0.0625"),
        ({"model__stem": "7x7"}, "--config.model.stem=deep"),
        ({"model__context": "psp"}, "--config.model.context=rcca"),
        ({"model__loops": 2}, "--config.model.loops=1"),
        ({"model__align_corners": True}, "--config.model.align_corners=False"),
        ({"data__name": "streets"}, "streets with 13 classes, the weights in .* have 11"),
    ):
        with pytest.raises(UserError, match=words):
            imported(path, tmp_path / "other", recipe=recipe(**changes))
        assert not (tmp_path / "other").exists()
    others = {"CLASSES": [f"crop {i}" for i in range(11)]}
    path = saved(random_state("mmseg", classes=11), tmp_path / "crops.safetensors", others)
    with pytest.raises(
        UserError, match="for camvid, the classes in .* are crop 0, crop 1, crop 2, ...; choose"
    ):
        imported(path, tmp_path / "other", recipe=recipe())


@pytest.mark.parametrize(
    ("naming", "source"),
    [("torchvision", "torchvision"), ("timm", "timm"), ("mmseg", "mmseg"), ("official", "official")],
)
def test_a_backbone_alone_is_for_pretrained(tmp_path, capsys, naming, source):
    n = scaled(1 / 16)
    state = filled(backbone_shapes(10, n, stem_of(naming, n)) | {"fc.weight": (10, 32), "fc.bias": (10,)})
    path = saved(state, tmp_path / "w.safetensors")
    import_weights(path, tmp_path / "backbone", source)
    out = capsys.readouterr().out
    assert "not used: fc.bias, fc.weight" in out
    assert f"--config.pretrained={tmp_path / 'backbone'}" in out
    flavour, stem = (
        "official" if naming == "official" else "mmseg",
        "7x7" if naming == "torchvision" else "deep",
    )
    like = checkpoints.variables_like(
        CCNet(3, 10, flavour, width=1 / 16, stem=stem), devices.data_mesh(jax.devices()[:1])
    )
    start = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), like)
    of_folder, of_file = (load_backbone(str(p), start) for p in (tmp_path / "backbone", path))
    jax.tree.map(np.testing.assert_array_equal, of_folder, of_file)
    got = of_file["params"]["backbone"]["layer2_0"]["downsample_conv"]["kernel"]
    np.testing.assert_array_equal(got[0, 0], state["layer2.0.downsample.0.weight"][:, :, 0, 0].T)
    with pytest.raises(UserError, match="is not a run: it has no config.json"):
        records.load_config(RunFolder(tmp_path / "backbone"))
    other = checkpoints.variables_like(
        CCNet(3, 10, flavour, width=1 / 16, stem="deep" if stem == "7x7" else "7x7"),
        devices.data_mesh(jax.devices()[:1]),
    )
    for where in (path, tmp_path / "backbone"):
        with pytest.raises(UserError, match="config.model.(stem|flavour)"):
            load_backbone(str(where), other)


def test_a_converted_run_is_trained_on(tmp_path, monkeypatch, capsys):
    """From its weights with empty buffers; what a step computes is not compiled here."""
    monkeypatch.chdir(tmp_path)
    path = saved(random_state("mmseg", classes=11), tmp_path / "w.safetensors")
    changes = {"data__name": "camvid", "data__dir": str(write_camvid(tmp_path / "camvid"))}
    changes |= {"data__crop": (48, 64), "model__width": 1 / 16, "batch_size": 2, "eval_every": 0, "steps": 1}
    config = load_config("demo", **changes)
    _, before, _ = imported(path, tmp_path / "run", recipe=config)

    def make_step(*_):
        metrics = dict.fromkeys(METRICS, jnp.float32(0))
        return jax.jit(lambda state, batch: (state.replace(step=state.step + 1), metrics))

    monkeypatch.setattr(train, "make_train_step", make_step)
    monkeypatch.setattr(semantic, "evaluate", lambda *_, **__: {})
    train.train(config, RunFolder(tmp_path / "run"))
    assert "going on from step 0" in capsys.readouterr().out
    _, after, step = run_in(tmp_path / "run")
    assert step == 1
    assert all((after[name] == value).all() for name, value in before.items())


# ------------------------------------------------------------------------------------------ what is wrong
def test_weights_that_do_not_fit_are_one_message(tmp_path):
    good = random_state("mmseg", 50)

    def words(changes, without=(), **options):
        state = {name: value for name, value in good.items() if name not in without}
        message = refused(saved(state | changes, tmp_path / "w.safetensors"), tmp_path / "run", **options)
        assert not list(tmp_path.glob("*run*"))
        assert not list(tmp_path.glob(".*"))
        return message

    name = "backbone.layer3.4.bn2.running_var"
    said = words({}, [name, "decode_head.conv_seg.bias"])
    assert f"but lacks {name}, decode_head.conv_seg.bias; take a complete file" in said
    assert "and 12 more; take" in words({}, [n for n in good if ".cca" not in n and "decode" in n])
    name = "decode_head.convs.0.conv.weight"
    said = words({name: np.array(good[name].transpose(1, 0, 2, 3))})
    assert f"{name} in {tmp_path / 'w.safetensors'} is 128x32x3x3 where this network needs 32x128x3x3" in said
    assert "as if transposed" in said
    assert "CCNet of the mmseg flavour, ResNet-50" in said
    ruined = good[name].copy()
    ruined[3, 2, 0, 1] = np.nan
    said = words({name: ruined})
    assert name in said
    assert "not finite" in said
    with pytest.raises(UserError, match="not finite"):
        values.check_value(np.array([1e300]), "a", (1,), "w", "")  # which float32 does not have
    variances = {"backbone.layer3.4.bn2.running_var": -good["backbone.layer3.4.bn2.running_var"]}
    said = words(variances)
    assert "layer3.4.bn2.running_var" in said
    assert "holds variances below 0, with which no output is finite; take another copy" in said
    said = words({name: np.ones(good[name].shape, np.int64)})
    assert name in said
    assert "int64" in said
    assert "bottleneck blocks" in words({}, [n for n in good if "layer3.5." in n])
    assert "are those of mmseg; pass --source mmseg" in words({}, source="official")
    assert "omit --inplace-abn" in words({}, in_place=True)


def test_other_networks_are_one_message(tmp_path):
    def words(state):
        return refused(saved(state, tmp_path / "w.safetensors"), tmp_path / "run")

    pspnet = {n: v for n, v in random_state("mmseg").items() if "decode_head" not in n}
    pspnet["decode_head.psp_modules.0.1.conv.weight"] = np.ones((8, 32, 1, 1), np.float32)
    assert "another network than CCNet: it has auxiliary_head" in words(pspnet)
    assert "holds no ResNet" in words({"blocks.0.weight": np.ones(3, np.float32)})
    pooled = random_state("official") | {"layer1.0.downsample.2.weight": np.ones(3, np.float32)}
    assert "ResNet-D" in words(pooled)


def test_files_and_folders_that_cannot_be(tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert "does not exist" in refused(tmp_path / "w.pth", out)
    (tmp_path / "w.onnx").touch()
    assert "of no known kind" in refused(tmp_path / "w.onnx", out)
    assert "pass --to torch" in refused(tmp_path, out)
    path = saved(random_state("mmseg"), tmp_path / "w.safetensors")
    whole = path.read_bytes()
    for length in (0, 5, 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "cannot be read as .safetensors" in refused(path, out)
    path.write_bytes(whole)
    out.mkdir()
    (out / "notes.txt").touch()
    assert "exists and is not empty" in refused(path, out)
    assert sorted(p.name for p in out.iterdir()) == ["notes.txt"]
    (out / "notes.txt").unlink()
    imported(path, out)  # an empty folder will do

    def said(run, file, **options):
        with pytest.raises(UserError) as error:
            exported(run, tmp_path / file, **options)
        return str(error.value)

    assert "w.safetensors exists; choose" in said(out, "w.safetensors")
    assert "of no known kind" in said(out, "w.onnx2")
    assert "is a file; name the folder of a run" in said(path, "b.safetensors")
    assert "is not a run" in said(tmp_path, "b.safetensors")
    assert "holds no checkpoint best" in said(out, "b.safetensors", which="best")
    assert "omit --inplace-abn" in said(out, "b.safetensors", in_place=True)
    config = records.load_config(RunFolder(out))
    psp = dataclasses.replace(config, model=dataclasses.replace(config.model, context="psp"))
    records.save_config(RunFolder(out), psp)
    assert "only rcca" in said(out, "b.safetensors")
    monkeypatch.setitem(BACKBONES, "toy", BACKBONES["resnet"])
    toy = dataclasses.replace(config, model=dataclasses.replace(config.model, backbone="toy"))
    records.save_config(RunFolder(out), toy)
    assert "only resnet" in said(out, "b.safetensors")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "choose a .safetensors" in said(out, "b.pth")
    (tmp_path / "w.pth").touch()
    assert "pip install torch" in refused(tmp_path / "w.pth", tmp_path / "other")


@needs_torch
@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_runs_no_code_and_truncated_ones_are_told(tmp_path, modern):
    import torch

    path, out = tmp_path / "w.pth", tmp_path / "run"
    state = {name: torch.tensor(value) for name, value in random_state("mmseg").items()}
    harmful = {"state_dict": state, "meta": {"config": helpers.RunsCode(tmp_path / "marker")}}
    torch.save(harmful, path, _use_new_zipfile_serialization=modern)
    assert "would be code and is not run" in refused(path, out)
    assert not (tmp_path / "marker").exists()
    torch.save({"state_dict": state, "meta": {}}, path, _use_new_zipfile_serialization=modern)
    whole = path.read_bytes()
    for length in (0, 1, 50, 300, 2000, 20_000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert str(path) in refused(path, out)
    path.write_bytes(whole)
    imported(path, out)


def test_files_that_would_fill_the_memory_are_refused_before(tmp_path):
    def told(path):
        with pytest.raises(UserError) as error:
            tensor_files.read(path)
        return str(error.value)

    bomb = tmp_path / "w.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(10**8))
    assert "unpacks to 100 MB, more than it has, and PyTorch compresses nothing" in told(bomb)
    header = tmp_path / "header.safetensors"
    with header.open("wb") as file:
        file.write(struct.pack("<Q", 10**9) + b"{}")
        file.truncate(10**9 + 8)  # which takes no room on the disk
    assert "cannot be read as .safetensors" in told(header)
    for meta, shape in (("[" * 100_000, [1]), ("{}", [10**10])):
        entries = {
            "__metadata__": {"meta": meta},
            "a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]},
        }
        text = json.dumps(entries).encode()
        header.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
        assert "cannot be read as .safetensors" in told(header)


@needs_torch
def test_pickles_that_are_more_than_they_seem_are_refused(tmp_path):
    import torch

    many = torch.zeros(1).half().expand(10**9)  # one number, which stands for all
    torch.save({"state_dict": {"a": many}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="a tensor has more numbers than are stored"):
        tensor_files.read(tmp_path / "w.pth")
    in_itself = {}
    in_itself["model"] = in_itself
    torch.save(in_itself, tmp_path / "w.pth")
    assert tensor_files.read(tmp_path / "w.pth").tensors == {}


@pytest.mark.parametrize("name", ["w.safetensors", pytest.param("w.pth", marks=needs_torch)])
def test_half_precision_is_read_exactly(tmp_path, name):
    state = random_state("mmseg")
    if name == "w.safetensors":
        halves = {n: v.astype(jnp.bfloat16) if v.dtype == np.float32 else v for n, v in state.items()}
        safetensors.numpy.save_file(halves, tmp_path / name)
    else:
        import torch

        tensors = {n: torch.tensor(v) for n, v in state.items()}
        halves = {n: v.bfloat16() if v.is_floating_point() else v for n, v in tensors.items()}
        torch.save(halves, tmp_path / name)
    _, variables, _ = imported(tmp_path / name, tmp_path / "run")
    bias = state["decode_head.conv_seg.bias"].astype(jnp.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(variables["params/head/classifier/bias"], bias)


def test_the_program(tmp_path):
    path = saved(random_state("official"), tmp_path / "w.safetensors")
    code, out, err = helpers.run(
        "ccnet_jax.convert", str(path), "--source=official", "--out=run", cwd=tmp_path
    )
    assert code == 0, err
    assert "python -m ccnet_jax.eval --workdir run" in out
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "classes.json",
        "config.json",
        "versions.json",
    ]


@pytest.mark.parametrize(("flag", "scale"), [("--no-inplace-abn", -1), (None, 1)])
def test_the_flags(tmp_path, monkeypatch, capsys, flag, scale):
    state = random_state("official")
    state["bn1.weight"] = -np.ones_like(state["bn1.weight"])
    saved(state, tmp_path / "w.safetensors")
    monkeypatch.setenv("HOME", str(tmp_path))  # "~" is understood in every path

    def convert_main(*words):
        monkeypatch.setattr(sys, "argv", ["convert", *filter(None, words)])
        convert.main()

    convert_main("~/w.safetensors", "--out=~/run", "--config.model.loops=1", flag)
    assert "taken from --config: loops=1, align_corners=True" in capsys.readouterr().out
    config, variables, _ = run_in(tmp_path / "run")
    assert config.model.loops == 1
    assert variables["params/backbone/stem_norm1/scale"][0] == pytest.approx(scale, abs=1e-4)
    convert_main(
        "~/run", "--to", "torch", "--out", "~/back.safetensors", "--checkpoint=~/run/checkpoints/last"
    )
    assert (tmp_path / "back.safetensors").is_file()
    with pytest.raises(UserError, match="with --to torch omit them"):
        convert_main("~/run", "--to=torch", "--out=~/b.safetensors", "--config=demo")
