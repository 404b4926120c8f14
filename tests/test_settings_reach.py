"""No key is without effect: for every one, a change of it changes what it says that it changes."""

import contextlib
import functools
import json
import pathlib
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Literal

from ccnet_jax import train
from ccnet_jax.config.config import KEYS, is_read_by
from ccnet_jax.engine import engine
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.evaluation.detector import detect
from ccnet_jax.tasks import TASKS, semantic
from ccnet_jax.tasks.callbacks import remark
from ccnet_jax.tools.costs.parts import variable_shapes
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.step import GUARDED, State, initial_state, split_batch
from tests.helpers import ROOT, TINY, load_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_backbone", "without_shape_checks")]

SMALL = {"model__width": 1 / 16, "data__crop": (64, 64), "batch_size": 2}
OF_TINY = SMALL | {key.replace(".", "__"): value for key, value in TINY.items()}
RESNET = SMALL | {"model__depth": 10, "model__context": "none"}
FOUND = {
    **{"model__depth": 10, "model__width": 1 / 16, "data__resize": (96, 64), "batch_size": 1},
    **{"detection__objects": 3, "detection__train_proposals": 8, "detection__test_proposals": 8},
    **{"detection__sampled_anchors": 8, "detection__sampled_regions": 8, "detection__detections": 4},
}


def text_of(function, *arguments):
    """The program that JAX traces, with the values of its constants."""
    traced = jax.make_jaxpr(function)(*arguments)
    return re.sub("0x[0-9a-f]+", "", str(traced)), [np.asarray(x).tobytes() for x in constants(traced)]


def constants(closed):
    """The constants of a traced program and of those inside."""
    yield from closed.consts
    for equation in closed.jaxpr.eqns:
        yield from (x.val for x in equation.invars if isinstance(x, Literal) and np.size(x.val) > 1)
        inside = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr))
        for value in inside:
            if isinstance(value, ClosedJaxpr):
                yield from constants(value)


def loss(config):
    """The program of the training loss."""
    task = TASKS[config.task]
    network = task.network(config, 3)
    variables = variable_shapes(network)
    size = config.data.crop or (64, 96)
    batch = task.shapes(config, size, config.batch_size)
    first_part = functools.partial(jax.tree.map, lambda x: split_batch(x, config.accumulate)[0])
    parts = jax.eval_shape(first_part, batch)
    function = task.loss(config, network)
    return text_of(function, variables["params"], variables["batch_stats"], parts, jax.random.key(0))


def network(config):
    """The network's attributes."""
    return TASKS[config.task].network(config, 3)


def optimizer(config):
    """The program of the optimizer's step, and which parameters it changes."""
    params = {"backbone": {"layer1_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}}
    is_trained = TASKS[config.task].is_trained(config)
    built = build_optimizer(config.optimizer, config.steps, is_trained)
    return text_of(lambda gradients: built.update(gradients, built.init(params), params), params)


def detections(config):
    """The program that finds objects."""
    network = TASKS["instance"].network(config, 3)
    variables = variable_shapes(network)
    images, size = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return text_of(functools.partial(detect, network, config.detection), variables, images, size)


def first_batch(config):
    """The first images that training sees."""
    task = TASKS[config.task]
    source = task.open(config.data, config.data.train_split)
    batches = task.batches(config, source, 0, 0, 1)
    try:
        return {name: x.tobytes() for name, x in next(batches).items()}
    finally:
        batches.close()


def evaluated(config):
    """How images are tested, and which."""
    return str(config.test_mode()), len(TASKS[config.task].open(config.data, config.data.eval_split))


def begun(config):
    """The program that draws the weights."""
    network = TASKS[config.task].network(config, 2)
    return text_of(
        functools.partial(initial_state, network, build_optimizer(config.optimizer, 2), config.seed)
    )


_seen: dict = {}  # of the training at hand


def life(what, config):
    """One of the things that are seen of a training."""
    return lived(config)[what]


@functools.cache
def lived(config):
    """What is seen of a training whose steps compute nothing; every other loss but one is 1."""
    _seen.clear()
    _seen.update({"saved": [], "tested at once": None, "warned of": []})
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.chdir(folder)
        patch.setattr(train, "make_train_step", scripted_step)
        patch.setattr(train, "make_initial_state", scripted_state)
        patch.setattr(train, "check_norms", lambda *_: None)
        patch.setattr(semantic, "evaluate", scripted_evaluation)
        patch.setattr(engine, "progress_bar", SilentBar)
        patch.setattr(remark, "say", lambda line: _seen["warned of"].extend([line] * ("usual" in line)))
        save = Checkpoints.save_last

        def noted(self, step, *rest):
            _seen["saved"].append(step)
            save(self, step, *rest)

        patch.setattr(Checkpoints, "save_last", noted)
        run = RunFolder(pathlib.Path(folder) / "run")
        train.train(config, run)
        lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
        kept = sorted(path.name for path in (run.checkpoints / "last").iterdir() if path.name.isdecimal())
    _seen["logged"] = [line["step"] for line in lines if "loss" in line]
    _seen["validated"] = [line["step"] for line in lines if "val/mIoU" in line]
    _seen["kept"] = kept
    return dict(_seen)


def scripted_step(*_):
    def step(state, batch):
        number = int(state.step) + 1
        loss = jnp.float32(5 if number == 24 else 1)
        return state.replace(step=state.step + 1), dict.fromkeys(GUARDED, jnp.float32(1)) | {"loss": loss}

    return step


def scripted_state(*_):
    one = {"w": jnp.ones(1)}
    return lambda: State(jnp.int32(0), {"params": one, "batch_stats": one}, one)


def scripted_evaluation(*_, batch_size, **__):
    _seen["tested at once"] = batch_size
    return {"confusion": [[1]], "mIoU": 0.5, "mAcc": 0.5, "pixel_accuracy": 0.5, "images": 1}


class SilentBar(contextlib.nullcontext):
    """A progress bar that shows nothing."""

    def __init__(self, **_):
        super().__init__(self)

    def update(self):
        pass

    def set_postfix_str(self, *_, **__):
        pass

    def close(self):
        pass


SCENES = {"data__crop": None, "batch_size": 2, "data__name": "streets"}
OBJECTS = {"data__name": "streets_instances", "task": "instance", "batch_size": 1}
ADAMW = OF_TINY | {"optimizer__name": "adamw"}
STEPS = OF_TINY | {"optimizer__schedule": "multi_step", "optimizer__milestones": (5,), "steps": 9}
LIFE = OF_TINY | {"steps": 24, "log_every": 4, "eval_every": 6, "checkpoint_every": 5}
# {key: [(what it changes, the config's other settings, another value), ...]}
EFFECTS = {
    "steps": [(optimizer, OF_TINY, 7)],
    "batch_size": [(loss, OF_TINY, 4), (first_batch, SCENES, 1)],
    "accumulate": [(loss, OF_TINY, 2)],
    "seed": [(first_batch, SCENES, 1), (begun, OF_TINY, 1)],
    "dtype": [(loss, OF_TINY, "bfloat16"), (network, FOUND, "bfloat16")],
    **{
        key: [(functools.partial(life, what), LIFE, value)]
        for key, (what, value) in {
            "log_every": ("logged", 3),
            "eval_every": ("validated", 4),
            "eval_batch_size": ("tested at once", 3),
            "checkpoint_every": ("saved", 4),
            "checkpoint_minutes": ("saved", 1e-9),
            "keep_checkpoints": ("kept", 1),
            "keep_every": ("kept", 5),
            "loss_spike": ("warned of", 2.0),
        }.items()
    },
    "eval_window": [(evaluated, {"eval_window": (64, 64), "eval_stride": (32, 32)}, (96, 96))],
    "eval_stride": [(evaluated, {"eval_window": (64, 64), "eval_stride": (32, 32)}, (48, 48))],
    "data.train_split": [(first_batch, SCENES, "val"), (first_batch, OBJECTS, "val")],
    "data.eval_split": [(evaluated, {}, "train")],
    "data.resize": [
        (first_batch, SCENES, (96, 48)),
        (evaluated, {}, (96, 48)),
        (first_batch, OBJECTS, (96, 64)),
    ],
    "data.scale": [(first_batch, SCENES | {"data__crop": (64, 64)}, (0.5, 0.6))],
    "data.short_sides": [(first_batch, SCENES | {"data__crop": (64, 64)}, (70, 80))],
    "data.crop": [(first_batch, SCENES, (64, 64)), (loss, OF_TINY, (64, 96))],
    "data.cat_max_ratio": [(first_batch, SCENES | {"data__crop": (32, 32), "batch_size": 8}, 0.5)],
    "data.flip": [
        (first_batch, SCENES | {"batch_size": 4}, True),
        (first_batch, OBJECTS | {"seed": 1, "batch_size": 4}, True),
    ],
    "data.distort": [(first_batch, SCENES, True), (first_batch, OBJECTS, True)],
    "model.depth": [(loss, RESNET, 18), (network, FOUND, 18)],
    "model.flavour": [(loss, RESNET, "official")],
    "model.stem": [(loss, RESNET, "7x7"), (network, FOUND, "7x7")],
    "model.width": [(loss, OF_TINY, 1 / 8), (network, FOUND, 1 / 8)],
    "model.context": [(loss, OF_TINY, "none"), (loss, FOUND, "none")],
    "model.loops": [(loss, OF_TINY, 3), (network, FOUND, 3)],
    "model.align_corners": [(loss, OF_TINY, True)],
    "model.implementation": [(loss, OF_TINY, "triton_interpret")],
    "model.remat": [(loss, RESNET, "blocks"), (loss, RESNET, "norms"), (loss, FOUND, "blocks")],
    "optimizer.schedule": [(optimizer, OF_TINY, "cosine")],
    "optimizer.learning_rate": [(optimizer, OF_TINY, 0.02), (optimizer, ADAMW, 0.02)],
    "optimizer.min_learning_rate": [
        (optimizer, OF_TINY | {"optimizer__schedule": x}, 0.01) for x in ("poly", "cosine")
    ],
    "optimizer.power": [(optimizer, OF_TINY, 0.5)],
    "optimizer.poly_end": [(optimizer, OF_TINY, "last_step")],
    "optimizer.milestones": [(optimizer, STEPS, (7,))],
    "optimizer.warmup_steps": [(optimizer, OF_TINY, 3)],
    "optimizer.warmup_from": [(optimizer, OF_TINY | {"optimizer__warmup_steps": 3}, 0.5)],
    "optimizer.name": [(optimizer, OF_TINY, "adamw")],
    "optimizer.momentum": [(optimizer, OF_TINY, 0.5)],
    "optimizer.beta1": [(optimizer, ADAMW, 0.5)],
    "optimizer.beta2": [(optimizer, ADAMW, 0.5)],
    "optimizer.weight_decay": [(optimizer, OF_TINY, 0.5), (optimizer, ADAMW, 0.5)],
    "optimizer.decay_norms_and_biases": [(optimizer, OF_TINY, False), (optimizer, ADAMW, False)],
    "optimizer.bias_learning_rate": [(optimizer, OF_TINY, 2.0)],
    "optimizer.clip_norm": [(optimizer, OF_TINY, 1.0)],
    "loss.name": [(loss, OF_TINY, "ohem")],
    "loss.auxiliary_weight": [(loss, OF_TINY, 0.5)],
    "loss.class_weights": [(loss, OF_TINY, (1.0, 2.0, 3.0))],
    "loss.label_smoothing": [(loss, OF_TINY, 0.1)],
    "loss.average_over": [(loss, OF_TINY, "all")],
    "loss.ohem_threshold": [(loss, OF_TINY | {"loss__name": "ohem"}, 0.5)],
    "loss.ohem_min_kept": [(loss, OF_TINY | {"loss__name": "ohem"}, 5)],
    "detection.objects": [(loss, FOUND, 4), (first_batch, OBJECTS, 2)],
    "detection.frozen": [(loss, FOUND, True), (optimizer, FOUND, True)],
    "detection.anchor_scale": [(loss, FOUND, 6.0), (detections, FOUND, 6.0)],
    "detection.train_proposals": [(loss, FOUND, 9)],
    "detection.test_proposals": [(detections, FOUND, 9)],
    "detection.sampled_anchors": [(loss, FOUND, 9)],
    "detection.sampled_regions": [(loss, FOUND, 9)],
    "detection.lowest_score": [(detections, FOUND, 0.5)],
    "detection.detections": [(detections, FOUND, 5)],
}
# {key: the file whose tests try it}: what needs files, processes or a corrupt image
ELSEWHERE = {
    "task": "tests/test_instances.py",
    "data.name": "tests/test_train.py",
    "model.backbone": "tests/my_parts.py",
    "save_errors": "tests/test_survival.py",
    "average_decay": "tests/engine/test_average.py",
    "tracker": "tests/engine/test_trackers.py",
    "skip_nonfinite": "tests/test_train.py",
    "profile": "tests/test_train.py",
    "pretrained": "tests/weights/test_pretrained.py",
    "distributed": "tests/engine/hosts/test_training.py",
    "hosts.coordinator": "tests/engine/hosts/test_training.py",
    "hosts.processes": "tests/engine/hosts/test_training.py",
    "hosts.process": "tests/engine/hosts/test_training.py",
    "hosts.wait_seconds": "tests/engine/hosts/test_meeting.py",
    "hosts.timeout_seconds": "tests/engine/hosts/test_link.py",
    "data.dir": "tests/test_train.py",
    "data.images": "tests/data/datasets/test_folder.py",
    "data.labels": "tests/data/datasets/test_folder.py",
    "data.classes": "tests/data/datasets/test_folder.py",
    "data.palette": "tests/data/datasets/test_folder.py",
    "data.val_fraction": "tests/data/datasets/test_folder.py",
    "data.skip_corrupt": "tests/data/test_stream.py",
    "data.source": "tests/test_prepare.py",
    "data.features": "tests/test_prepare.py",
    "data.workers": "tests/data/test_pipeline.py",
}


@pytest.mark.parametrize("name", KEYS)
def test_every_key_changes_what_it_says(name):
    if file := ELSEWHERE.get(name):
        assert name not in EFFECTS
        leaf = name.rpartition(".")[2]
        assert re.search(rf"(\b|__){leaf}\b", (ROOT / file).read_text())
        return
    for observed, settings, value in EFFECTS[name]:
        task = settings.get("task", "instance" if "detection__objects" in settings else "semantic")
        base = "streets_instances" if task == "instance" else "demo"
        assert is_read_by(task, name)
        settings = {"data__workers": 0} | settings
        one = observation(observed, load_config(base, **settings))
        other = observation(observed, load_config(base, **settings | {name.replace(".", "__"): value}))
        assert one != other, (observed, settings, value)


@functools.cache
def observation(observed, config):
    """What is observed under a config, once."""
    return observed(config)


def test_no_key_is_forgotten():
    assert set(EFFECTS) | set(ELSEWHERE) == set(KEYS)


@pytest.mark.parametrize("observed", [loss, optimizer, detections, first_batch, begun])
def test_what_is_observed_changes_with_nothing_else(observed):
    """Otherwise the test above could not fail."""
    settings, base = (FOUND, "streets_instances") if observed is detections else (OF_TINY, "demo")
    one, other = (observed(load_config(base, **settings, log_every=every)) for every in (7, 8))
    assert one == other
