"""The networks here and in PyTorch, with the same random weights under the true key names, agree."""

import functools
import math
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ccnet_jax import convert
from ccnet_jax.models.flavours import FLAVOURS
from ccnet_jax.training.optimizers import poly_schedule, sgd
from ccnet_jax.training.step import State, make_train_step
from tests.helpers import load_config
from tests.weights.test_convert import state_shapes

torch = pytest.importorskip("torch")
F = torch.nn.functional
torch_ccnet = pytest.importorskip("tests.torch_ccnet")

CLASSES = 19
NOWHERE = pathlib.Path("weights")  # the state dicts never were in a file


def converted(state, align_corners=None, loops=2):
    """(network, variables) of a state dict, as `convert` makes them."""
    tensors = {name: value.detach().numpy() for name, value in state.items()}
    found = convert.found_network(tensors, None, NOWHERE)
    config = convert.plain_config(found, convert.Told(loops=loops, align_corners=align_corners))
    in_place = convert.torch_weights.has_in_place_norms(tensors, found.naming)
    variables, _ = convert.converted(tensors, found, config, in_place, NOWHERE)
    return convert.configuration.build_model(config, found.num_classes), variables


@functools.cache
def network(flavour, depth, **changes):
    return torch_ccnet.randomized(torch_ccnet.NETWORKS[flavour](CLASSES, depth, 1 / 16, **changes)).eval()


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def nchw(images):
    return torch.tensor(images).permute(0, 3, 1, 2).float()


def assert_same(got, wanted, tolerance=1e-4):
    """Equal but for `tolerance` of the largest."""
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("depth", "size", "align_corners", "loops"),
    [
        (50, (769, 769), True, 2),  # 97x97 features by either pooling
        (50, (512, 1024), False, 2),  # 65x129 by the official, 64x128 by mmseg's
        (10, (33, 32), False, 1),  # 5x5 and 5x4
        (10, (64, 97), True, 3),
        (10, (47, 66), False, 2),
        (10, (1, 8), True, 2),  # 1x1 or 1x2
    ],
)
def test_logits(flavour, depth, size, align_corners, loops):
    theirs = network(flavour, depth)
    theirs.align_corners, theirs.loops = align_corners, loops
    ours, variables = converted(theirs.state_dict(), align_corners, loops)
    images = pictures(1, *size)
    got, _ = jax.jit(ours.apply)(variables, images)
    with torch.no_grad():
        wanted, _ = theirs(nchw(images))
    assert_same(got, wanted.permute(0, 2, 3, 1))


@pytest.mark.parametrize("changes", [{"norm": torch.nn.BatchNorm2d}, {"norm": torch_ccnet.InPlaceABN}])
def test_logits_with_negative_weights_of_norms(changes):
    """By which batch norm scales, and in-place ABN by |weight| + 1e-5: whichever it is, is told apart."""
    theirs = torch_ccnet.randomized(
        torch_ccnet.NETWORKS["official"](CLASSES, 10, 1 / 16, **changes), negative=True
    ).eval()
    ours, variables = converted(theirs.state_dict())
    images = pictures(1, 40, 40)
    got, _ = jax.jit(ours.apply)(variables, images)
    with torch.no_grad():
        assert_same(got, theirs(nchw(images))[0].permute(0, 2, 3, 1))


def test_logits_with_torchvisions_stem():
    theirs = torch_ccnet.randomized(torch_ccnet.NETWORKS["mmseg"](CLASSES, 10, 1 / 16, stem="7x7")).eval()
    ours, variables = converted(theirs.state_dict())
    assert ours.stem == "7x7"
    images = pictures(1, 45, 64)
    got, _ = jax.jit(ours.apply)(variables, images)
    with torch.no_grad():
        assert_same(got, theirs(nchw(images))[0].permute(0, 2, 3, 1))


def ohem(logits, labels, threshold, min_kept):
    """Mean loss of the pixels with p <= threshold; of the min_kept a picture with the lowest p, if more."""
    losses = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    hardest_first = losses[labels != 255].sort(descending=True).values
    hard = (hardest_first >= -math.log(threshold)).sum()
    return hardest_first[: max(int(hard), min_kept * len(labels))].mean()


def elements_of_norms(model, images):
    """{name of running_var: how many values a batch's statistics are of, a channel}."""
    counts, hooks = {}, []
    for name, module in model.named_modules():
        if hasattr(module, "running_var"):

            def note(module, inputs, output, name=name):
                counts[f"{name}.running_var"] = inputs[0].numel() // inputs[0].shape[1]

            hooks.append(module.register_forward_hook(note))
    model.eval()
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return counts


@pytest.mark.parametrize(("flavour", "ohem_on"), [("official", True), ("mmseg", False)])
def test_training(flavour, ohem_on, monkeypatch):
    """Loss, one and three steps of SGD with momentum and weight decay: parameters and running statistics.

    Without dropout, whose draws cannot agree. What is left is the running variance: PyTorch's norms keep
    n / (n - 1) times the variance of the batch, n values a channel, which is undone here before comparing.
    """
    monkeypatch.setattr(nn.Dropout, "__call__", lambda self, x: x)
    theirs = torch_ccnet.randomized(torch_ccnet.NETWORKS[flavour](CLASSES, 10, 1 / 16), seed=1)
    ours, variables = converted(theirs.state_dict())
    kept = 300
    config = load_config("demo", optimizer__learning_rate=0.05, optimizer__weight_decay=1e-2)
    config.loss.update({"ohem": ohem_on, "ohem_threshold": 0.05, "ohem_min_kept": kept})
    optimizer, schedule = sgd(config.optimizer, 10), poly_schedule(config.optimizer, 10)
    step = make_train_step(ours, optimizer, config.loss, 0)
    state = State(jnp.zeros((), jnp.int32), variables, optimizer.init(variables["params"]))
    torch_optimizer = torch.optim.SGD(theirs.parameters(), 0.05, momentum=0.9, weight_decay=1e-2)

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (4, 65, 65)).astype(np.uint8)
    labels[:, :20, :9] = 255
    first = {name: value.clone() for name, value in theirs.state_dict().items()}
    counts = elements_of_norms(theirs, nchw(pictures(4, 65, 65)))
    theirs.train()
    for i in range(3):
        images = pictures(4, 65, 65, seed=i)
        state, metrics = step(state, {"image": jnp.asarray(images), "label": jnp.asarray(labels)})

        logits, auxiliary = theirs(nchw(images))
        target = torch.tensor(labels).long()
        main = (
            ohem(logits, target, 0.05, kept) if ohem_on else F.cross_entropy(logits, target, ignore_index=255)
        )
        loss = main + 0.4 * F.cross_entropy(auxiliary, target, ignore_index=255)
        torch_optimizer.zero_grad()
        loss.backward()
        torch_optimizer.param_groups[0]["lr"] = float(schedule(i))
        torch_optimizer.step()
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-4)
        if i == 1:
            continue
        wanted = {name: value.clone() for name, value in theirs.state_dict().items()}
        biggest = 0
        for name, n in counts.items():
            start = first[name] * 0.9 ** (i + 1)
            biggest = max(biggest, float(((wanted[name] - start) / n).max()))
            wanted[name] = (wanted[name] - start) * (n - 1) / n + start
        assert biggest > 1e-4  # and without undoing it, it would be seen
        _, expected = converted(wanted)
        expected = traverse_util.flatten_dict(expected, sep="/")
        before = traverse_util.flatten_dict(converted(first)[1], sep="/")
        worst = {}
        for name, value in traverse_util.flatten_dict(state.variables, sep="/").items():
            moved = np.abs(expected[name] - before[name]).max()
            worst[name] = np.abs(value - expected[name]).max() / moved
        assert max(worst.values()) < 1e-3, max(worst, key=worst.get)


def test_the_reduced_networks_have_the_published_sizes_at_full_width():
    published = {("official", 50): 52_295_783, ("official", 101): 71_287_911}
    published |= {("mmseg", 50): 49_826_055, ("mmseg", 101): 68_818_183}
    for (flavour, depth), count in published.items():
        with torch.device("meta"):
            model = torch_ccnet.NETWORKS[flavour](CLASSES, depth)
        assert sum(parameter.numel() for parameter in model.parameters()) == count
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        assert shapes == state_shapes(flavour, depth)
