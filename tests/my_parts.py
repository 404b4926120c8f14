"""What a user writes to add parts of every kind, without a change in the package: one toy of each."""

import flax.linen as nn
import numpy as np
import optax

from ccnet_jax.common.labels import Classes
from ccnet_jax.config import default
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.sources import DataSet
from ccnet_jax.engine.engine import Callback
from ccnet_jax.models.backbones import BACKBONES, Backbone
from ccnet_jax.models.contexts import CONTEXTS
from ccnet_jax.tasks.callbacks import CALLBACKS
from ccnet_jax.training.losses import LOSSES, cross_entropy
from ccnet_jax.training.optimizers import OPTIMIZERS
from ccnet_jax.training.schedules import SCHEDULES
from kernels.criss_cross import IMPLEMENTATIONS

# -------------------------------------------------------------------------------------------- a data set
CLASSES = Classes(("dark", "bright"), np.array([(0, 0, 0), (255, 255, 0)], np.uint8))


class Squares:
    """A `Source`: images of a bright square on a dark ground."""

    classes, palette, numbers = CLASSES.names, CLASSES.palette, CLASSES.numbers
    label_classes = CLASSES

    def __len__(self):
        return 4

    def __getitem__(self, index):
        label = np.zeros((48, 64), np.uint8)
        label[8 * index : 8 * index + 16, 8:40] = 1
        return {"image": np.repeat(255 * label[..., None], 3, -1), "label": label}

    def name(self, index):
        return f"square{index}"


DATASETS["squares"] = DataSet(CLASSES, ("train", "val"), lambda location, split: Squares())


# -------------------------------------------------------------------------------------------- a backbone
class Patches(nn.Module):
    """Patches of 8x8 pixels, projected."""

    channels: int

    @nn.compact
    def __call__(self, x, train):
        stage3 = nn.relu(nn.Conv(self.channels, (8, 8), strides=8, name="patches")(x))
        return stage3, nn.relu(nn.Dense(self.channels, name="mix")(stage3))


BACKBONES["patches"] = Backbone(
    depths=(2,), build=lambda settings, name: Patches(int(64 * settings.width), name=name)
)


# -------------------------------------------------------------------------------------- a context module
class Mean(nn.Module):
    """Adds the mean over the image."""

    @nn.compact
    def __call__(self, x, train):
        return x + nn.Dense(x.shape[-1], name="project")(x.mean((1, 2), keepdims=True))


CONTEXTS["mean"] = lambda settings, name: Mean(name=name)


# -------------------------------------------------------------- a loss, an optimizer, a schedule, a backend
def doubled(logits, labels):
    mean = cross_entropy(logits, labels)
    return mean._replace(total=2 * mean.total)


LOSSES["doubled"] = lambda config: doubled
OPTIMIZERS["plain"] = lambda config, schedule: optax.sgd(schedule)
SCHEDULES["constant"] = lambda config, steps: optax.constant_schedule(config.learning_rate)


# ------------------------------------------------------------------------------------------- a callback
class Spreadsheet(Callback):
    """loss.csv in the run's folder."""

    def after_log(self, step, values):
        if "loss" in values and self.engine.is_first:
            with (self.engine.run.path / "loss.csv").open("a") as file:
                file.write(f"{step},{values['loss']}\n")


CALLBACKS["spreadsheet"] = lambda training: Spreadsheet(training.engine)
IMPLEMENTATIONS["renamed"] = IMPLEMENTATIONS["xla"]


def get_config(variant: str = "all"):
    """Every toy at once; `backend` is RCCA with the toy backend."""
    config = default()
    config.steps, config.batch_size, config.log_every, config.eval_every = 2, 2, 1, 2
    config.data.name = "squares"
    config.model.backbone = "patches"
    config.model.depth = 2
    config.model.width = 0.125
    config.model.context = "mean"
    config.loss.name = "doubled"
    config.optimizer.name = "plain"
    config.optimizer.schedule = "constant"
    if variant == "backend":
        config.model.context = "rcca"
        config.model.implementation = "renamed"
    return config


VARIANTS = {"all": (None, None), "backend": (None, None)}
