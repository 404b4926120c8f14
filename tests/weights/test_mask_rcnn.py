"""Mask R-CNN beside torchvision's recorded results; and the conversion of its weights."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import ccnet_jax
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import records
from ccnet_jax.data.datasets.coco import COCO_CLASSES
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.weights.instance_import import (
    COCO_LABELS,
    INSTANCE_NAMES,
    UNUSED_IDS,
    import_instances,
    instance_source,
    instance_variables,
    without_unused_labels,
)
from ccnet_jax.weights.naming import is_counter, without_wrappers
from ccnet_jax.weights.torch_import import import_weights
from tests.weights import mask_rcnn_cases as cases

pytestmark = pytest.mark.slow

NOWHERE = cases.RECORDED  # in messages
TOLERANCE = 1e-4  # of the largest number
NARROW = 1 / 8  # of the width


@pytest.fixture(scope="module")
def recorded():
    with np.load(cases.RECORDED) as file:
        return dict(file)


@functools.cache
def variables_of(depth):
    return cases.random_state(depth)[1]


@functools.partial(jax.jit, static_argnums=0)
def all_results(network, variables, images, size, regions):
    """What `record_torchvision` records, of the first image."""
    apply = functools.partial(network.apply, variables)
    levels = apply(images, size, method="pyramid")
    rpn = apply(levels, images.shape[1:3], method="rpn")
    features = apply(levels[:4], regions, 7, method="_region_features")
    logits, deltas = apply(levels, regions, method="boxes")
    masks = apply(levels, regions, method="masks")
    found = apply(images, size, count=cases.DETECTIONS)
    results = {f"level{n}": level for n, level in enumerate(levels, 2)}
    results |= {"rpn_logits": jnp.concatenate(rpn.logits, 1), "rpn_deltas": jnp.concatenate(rpn.deltas, 1)}
    results |= {"features": features, "box_logits": logits, "box_deltas": deltas, "mask_logits": masks}
    results |= found._asdict()
    return jax.tree.map(lambda x: x[0], results)


@pytest.mark.parametrize(
    ("depth", "size"),
    [*((depth, cases.SIZES[0]) for depth in cases.DEPTHS), (cases.DEPTHS[0], cases.SIZES[1])],
)
def test_every_intermediate_and_the_detections_are_torchvisions(depth, size, recorded):
    height, width = (-(-side // cases.CANVAS) * cases.CANVAS for side in size)
    image = np.zeros((1, height, width, 3), np.uint8)
    image[0, : size[0], : size[1]] = cases.image(size)
    regions = cases.regions(size)[None]
    found = all_results(cases.network(depth), variables_of(depth), image, np.array([size]), regions)
    count = len(recorded[f"{depth}/{size[0]}x{size[1]}/scores"])
    assert count > 3
    scores = recorded[f"{depth}/{size[0]}x{size[1]}/scores"]
    assert (np.diff(scores) < -5e-6).all()  # none are equal: their order is a result
    assert int(found.pop("used").sum()) == count
    for name, value in found.items():
        wanted = recorded[f"{depth}/{size[0]}x{size[1]}/{name}"]
        value = value[:count] if name in ("boxes", "classes", "scores", "masks") else value
        value = np.asarray(value) if value.shape == wanted.shape else cases.excerpt(value)
        assert np.abs(value - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name


def test_the_names_are_those_of_torchvisions_network(recorded):
    """Every tensor of the published network, of ResNet-50 and 91 labels, has its place."""
    shapes = json.loads(str(recorded["shapes/50"]))
    state = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    assert instance_source(state) == "torchvision"
    names = INSTANCE_NAMES["torchvision"]
    _, used = instance_variables(state, names, cases.network(50, COCO_LABELS - 1), NOWHERE)
    assert used == {name for name in shapes if not is_counter(name)}


def saved(state, path):
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("source", INSTANCE_NAMES)
def test_weights_become_a_run(source, tmp_path, capsys):
    state, variables = cases.random_state(18, source)
    if source == "mmdetection":
        state = {**state, "backbone.bn1.num_batches_tracked": np.array([3], np.int64)}
    import_instances(state, NOWHERE, tmp_path / "run")
    out = capsys.readouterr().out
    assert f"holds {source}'s Mask R-CNN, ResNet-18, 5 classes" in out
    assert "not used" not in out
    counters = int(source == "mmdetection")
    assert f"{len(state) - counters} of its {len(state)} tensors used; not needed: {counters} counters" in out
    model = ccnet_jax.load(tmp_path / "run")
    assert len(model.classes) == 5
    jax.tree.map(np.testing.assert_array_equal, model.variables, variables)
    config = records.load_config(RunFolder(tmp_path / "run"))
    assert (config.task, config.model.depth, config.model.context) == ("instance", 18, "none")


def test_background_is_first_here_wherever_it_was():
    """With the same numbers for each class, mmdetection's last logit is this network's first."""
    for source, background in (("torchvision", 0), ("mmdetection", -1)):
        state, variables = cases.random_state(18, source, width=NARROW)
        bias = state[f"{INSTANCE_NAMES[source].modules['box_head/classes'][0]}.bias"]
        assert variables["params"]["box_head"]["classes"]["bias"][0] == bias[background]


def test_labels_that_are_no_class_are_left_out():
    state, _ = cases.random_state(18, classes=COCO_LABELS - 1, width=NARROW)
    names = INSTANCE_NAMES["torchvision"]
    smaller = without_unused_labels(state, names, NOWHERE)
    logits = "roi_heads.box_predictor.cls_score.bias"
    assert len(smaller[logits]) == 1 + len(COCO_CLASSES) == COCO_LABELS - len(UNUSED_IDS)
    last = COCO_LABELS - 1  # toothbrush
    np.testing.assert_array_equal(smaller[logits][-1], state[logits][last])
    variables, _ = instance_variables(smaller, names, cases.network(18, len(COCO_CLASSES), NARROW), NOWHERE)
    deltas = state["roi_heads.box_predictor.bbox_pred.bias"].reshape(COCO_LABELS, 4)
    bicycle, street_sign = 2, 12
    found = np.asarray(variables["params"]["box_head"]["deltas"]["bias"]).reshape(-1, 4)
    np.testing.assert_array_equal(found[COCO_CLASSES.index("bicycle")], deltas[bicycle])
    assert not (found == deltas[street_sign]).all(1).any()
    masks = "roi_heads.mask_predictor.mask_fcn_logits.bias"
    for broken, message in (
        ({name: value for name, value in state.items() if name != masks}, f"lacks {masks}; take a complete"),
        ({**state, masks: state[masks][:90]}, rf"{masks} in .* is of the shape \[90\], and must have 91 "),
    ):
        with pytest.raises(UserError, match=message):
            without_unused_labels(broken, names, NOWHERE)


def test_names_of_a_wrapped_network_are_read():
    state, _ = cases.random_state(18, width=NARROW)
    for before in ("", "module.", "_orig_mod.", "model.net._orig_mod."):
        wrapped = {before + name: value for name, value in state.items()}
        assert without_wrappers(wrapped) == state
        assert instance_source(without_wrappers(wrapped)) == "torchvision"
    assert without_wrappers({"model.a": 1, "head.b": 2}) == {"model.a": 1, "head.b": 2}
    assert without_wrappers({}) == {}


def test_older_names_are_read():
    state, variables = cases.random_state(18, width=NARROW)
    renamed = {
        name.replace("rpn.head.conv.0.0.", "rpn.head.conv.").replace("_blocks.1.0.", "_blocks.1."): value
        for name, value in state.items()
    }
    assert set(renamed) != set(state)
    names = INSTANCE_NAMES["torchvision"]
    found, _ = instance_variables(renamed, names, cases.network(18, width=NARROW), NOWHERE)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_weights_that_do_not_fit_get_a_message(tmp_path):
    state, _ = cases.random_state(18)
    name = "roi_heads.box_head.fc7.weight"
    for broken, message in (
        ({**state, name: state[name][:5]}, f"{name} in .* is 5x1024 where this network needs 1024x1024"),
        ({x: value for x, value in state.items() if x != name}, f"lacks {name}; take a complete file"),
    ):
        with pytest.raises(UserError, match=message):
            import_instances(broken, NOWHERE, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_flags_for_another_network_get_a_message(tmp_path):
    names = INSTANCE_NAMES["mmdetection"].modules["mask_head/masks"]
    path = saved({f"{names[0]}.weight": np.zeros(1, np.float32)}, tmp_path / "weights.safetensors")
    for flags, message in (
        ({"expected_source": "mmseg"}, "are those of mmdetection's Mask R-CNN; omit --source mmseg"),
        ({"in_place": True}, "whose norms are never in-place ABN; omit --inplace-abn"),
    ):
        with pytest.raises(UserError, match=message):
            import_weights(path, tmp_path / "run", **flags)
