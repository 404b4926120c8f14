"""No training begins whose norms would see one value: over all context modules, both tasks, own parts."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from ccnet_jax import train
from ccnet_jax.common import devices
from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.models.backbones import BACKBONES, Backbone
from ccnet_jax.models.contexts import CONTEXTS
from ccnet_jax.tasks import TASKS
from ccnet_jax.tasks.norms import check_norms
from ccnet_jax.tools.costs.parts import training_operations
from ccnet_jax.training.optimizers import build_optimizer
from ccnet_jax.training.step import make_initial_state, make_train_step
from tests.helpers import TINY, load_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_backbone")]
POOLED = ("psp", "aspp")  # context modules with a norm of the whole image's average
WORDS = "of each channel from 1 value"


class Images:
    """A source of one image, with an object where the task asks for one."""

    classes = ("a", "b")

    def __init__(self, height, width):
        self._size = height, width

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return {"label": np.zeros(self._size, np.uint8)}

    def size(self, _):
        return self._size

    def count(self, _):
        return 1


def refusal(source=None, mesh=None, config="demo", **changes):
    """What `check_norms` says of a config, None where it lets it train."""
    config = load_config(config, **changes)
    task, mesh = TASKS[config.task], mesh or devices.data_mesh(jax.devices()[:1])
    network = task.network(config, 2)
    optimizer = build_optimizer(config.optimizer, config.steps, task.is_trained(config))
    begin = make_initial_state(network, optimizer, 0, devices.replicated_sharding(mesh))
    loss = task.loss(config, network)
    step = make_train_step(loss, optimizer, 0, config.accumulate)
    if config.accumulate == 1:  # without the gradient, which has no norms of its own
        step = jax.jit(
            lambda state, batch: loss(
                state.variables["params"], state.variables["batch_stats"], batch, jax.random.key(0)
            )
        )
    try:
        check_norms(config, task, source or Images(64, 64), mesh, begin, step)
    except UserError as error:
        return str(error)
    return None


def of_tiny(**changes):
    settings = {key.replace(".", "__"): value for key, value in TINY.items()}
    return refusal(**(settings | {"data__crop": (64, 64)} | changes))


@pytest.mark.parametrize("context", CONTEXTS)
def test_one_image_at_once_is_refused_where_a_context_module_pools_it(context):
    one = of_tiny(model__context=context, batch_size=1)
    if context not in POOLED:
        assert one is None
        return
    assert f"head/context/{context}/" in one
    assert WORDS in one
    assert one.endswith(
        "config.batch_size=1): raise config.batch_size, or choose another config.model.context"
    )
    parts = of_tiny(model__context=context, batch_size=2, accumulate=2)
    assert "config.batch_size=2 in config.accumulate=2 parts): raise config.batch_size, lower" in parts
    assert of_tiny(model__context=context, batch_size=4, accumulate=2) is None


@pytest.mark.parametrize("context", POOLED)
@pytest.mark.parametrize("processes", [1, 2])
def test_what_counts_is_the_batch_of_all_devices_and_hosts(context, processes, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    eight = {"mesh": devices.data_mesh(), "model__context": context, "batch_size": 8}
    assert len(jax.devices()) == 8
    assert of_tiny(**eight) is None  # an image on each device
    assert WORDS in of_tiny(**eight | {"accumulate": 8})


class Shrinking(nn.Module):
    """A backbone with Flax's norm, which makes one pixel of 64."""

    channels: int

    @nn.compact
    def __call__(self, x, train):
        for name in ("patches", "patches_of_patches"):
            x = nn.Conv(self.channels, (8, 8), strides=8, name=name)(x)
        x = nn.BatchNorm(not train, name="own_norm")(x)
        return x, x


def test_a_backbone_of_ones_own_and_a_small_crop(monkeypatch):
    own = Backbone(depths=(2,), build=lambda settings, name: Shrinking(int(64 * settings.width), name=name))
    monkeypatch.setitem(BACKBONES, "tiny", own)
    refused = of_tiny(model__context="none", batch_size=1)
    assert "backbone/own_norm would" in refused
    assert "(its input is 1x1x1x" in refused
    assert refused.endswith("raise config.batch_size, or raise config.data.crop")
    assert of_tiny(model__context="none", batch_size=2) is None
    assert of_tiny(model__context="none", batch_size=1, data__crop=(64, 128)) is None
    whole = {"model__context": "none", "batch_size": 1, "data__crop": None, "data__scale": None}
    assert "own_norm" in of_tiny(
        source=Images(64, 40), **whole
    )  # of whole images the first one's size is known
    assert of_tiny(source=Images(128, 40), **whole) is None


def test_instance_networks_with_norms_that_are_trained():
    small = {"model__depth": 10, "model__width": 1 / 16, "data__resize": (32, 32), "batch_size": 1}
    small |= {"config": "coco:r50-none", "source": Images(32, 32), "detection__objects": 2}
    refused = refusal(detection__frozen=False, **small)
    assert "backbone/layer4_0/" in refused
    assert refused.endswith("raise config.batch_size, or raise config.data.resize")
    assert refusal(detection__frozen=True, **small) is None
    assert refusal(detection__frozen=False, **small | {"batch_size": 2}) is None


def test_training_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {key.replace(".", "__"): value for key, value in TINY.items()}
    config = load_config("demo", batch_size=1, model__context="aspp", **settings)
    with pytest.raises(UserError, match=WORDS):
        train.train(config, RunFolder(tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_what_training_refuses_has_no_cost_and_a_device_may_have_one_image():
    settings = {key.replace(".", "__"): value for key, value in TINY.items()}
    of_psp = functools.partial(load_config, "demo", data__crop=(64, 64), model__context="psp", **settings)
    with pytest.raises(UserError, match=WORDS):
        training_operations(of_psp(batch_size=1), classes=2, batch_size=1)
    assert training_operations(of_psp(batch_size=8), classes=2, batch_size=1)["forward"]
