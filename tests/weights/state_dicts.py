"""State dicts with the names and shapes that PyTorch's code bases give them, filled with random numbers."""

import json

import numpy as np
import safetensors.numpy


def conv(name, outside, inside, size, bias=False):
    return {f"{name}.weight": (outside, inside, size, size)} | ({f"{name}.bias": (outside,)} if bias else {})


def norm(name, channels, counted):
    shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | ({f"{name}.num_batches_tracked": ()} if counted else {})


def scaled(width):
    return lambda channels: max(8, round(channels * width / 8) * 8)


def backbone_shapes(depth, n, stem, prefix="", counted=True):
    """{name: shape} of a ResNet; stem: the names and channels of its convolutions and norms."""
    shapes, inside = {}, 3
    for conv_name, norm_name, channels, size in stem:
        shapes |= conv(prefix + conv_name, channels, inside, size)
        shapes |= norm(prefix + norm_name, channels, counted)
        inside = channels
    sizes = (1, 3, 1) if depth >= 50 else (3, 3)
    blocks = {10: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    for stage, count in enumerate(blocks, 1):
        channels = n(32 * 2**stage)
        for i in range(count):
            block, before = f"{prefix}layer{stage}.{i}", inside
            widths = (
                (inside, channels, channels, 4 * channels) if depth >= 50 else (inside, channels, channels)
            )
            for j, size in enumerate(sizes, 1):
                shapes |= conv(f"{block}.conv{j}", widths[j], widths[j - 1], size)
                shapes |= norm(f"{block}.bn{j}", widths[j], counted)
            inside = widths[-1]
            if i == 0 and (before != inside or stage == 2):
                shapes |= conv(f"{block}.downsample.0", inside, before, 1)
                shapes |= norm(f"{block}.downsample.1", inside, counted)
    return shapes


def stem_of(naming, n):
    wide = (n(64), n(64), n(128)) if naming == "official" else (n(32), n(32), n(64))
    names = {
        "official": (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
        "mmseg": (("stem.0", "stem.1"), ("stem.3", "stem.4"), ("stem.6", "stem.7")),
        "timm": (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")),
    }
    if naming == "torchvision":
        return [("conv1", "bn1", n(64), 7)]
    return [(*pair, channels, 3) for pair, channels in zip(names[naming], wide, strict=True)]


def state_shapes(flavour, depth, width=1.0, classes=19):
    """{name: shape} of the CCNet authors' network, with in-place ABN, or mmsegmentation's."""
    n = scaled(width)
    deep, side, middle = (2048, 1024, 512) if depth >= 50 else (512, 256, 512)
    expansion = 4 if depth >= 50 else 1
    deep, side, middle = expansion * n(512), expansion * n(256), n(512)
    if flavour == "official":
        shapes = backbone_shapes(depth, n, stem_of("official", n), counted=False)
        for name, inside, bias in (
            ("head.conva", deep, False),
            ("head.convb", middle, False),
            ("head.bottleneck", deep + middle, False),
            ("dsn", side, True),
        ):
            shapes |= conv(f"{name}.0", middle, inside, 3, bias) | norm(f"{name}.1", middle, counted=False)
        for name in ("head.bottleneck.3", "dsn.3"):
            shapes |= conv(name, classes, middle, 1, bias=True)
        cca, gamma = "head.cca", {"head.cca.gamma": (1,)}
    else:
        shapes = backbone_shapes(depth, n, stem_of("mmseg", n), "backbone.")
        for name, outside, inside in (
            ("decode_head.convs.0", middle, deep),
            ("decode_head.convs.1", middle, middle),
            ("decode_head.conv_cat", middle, deep + middle),
            ("auxiliary_head.convs.0", n(256), side),
        ):
            shapes |= conv(f"{name}.conv", outside, inside, 3) | norm(f"{name}.bn", outside, counted=True)
        shapes |= conv("decode_head.conv_seg", classes, middle, 1, bias=True)
        shapes |= conv("auxiliary_head.conv_seg", classes, n(256), 1, bias=True)
        cca, gamma = "decode_head.cca", {"decode_head.cca.gamma.scale": ()}
    for part, outside in (("query", middle // 8), ("key", middle // 8), ("value", middle)):
        shapes |= conv(f"{cca}.{part}_conv", outside, middle, 1, bias=True)
    return shapes | gamma


def filled(shapes, seed=0, prefix=""):
    """Random numbers, of either sign but for variances; counters are 0."""
    rng = np.random.default_rng(seed)

    def values(name, shape):
        if name.endswith("num_batches_tracked"):
            return np.array(0, np.int64)
        low = 0.1 if name.endswith("running_var") else -1
        return np.asarray(rng.uniform(low, 1, shape), np.float32)

    return {prefix + name: values(name, shape) for name, shape in shapes.items()}


def random_state(flavour, depth=10, classes=19, **changes):
    return filled(state_shapes(flavour, depth, 1 / 16, classes), **changes)


def saved(state, path, meta=None):
    if path.suffix == ".safetensors":
        about = None if meta is None else {"meta": json.dumps(meta)}
        safetensors.numpy.save_file(state, path, metadata=about)
    else:
        import torch

        tensors = {name: torch.tensor(value) for name, value in state.items()}
        torch.save(tensors if meta is None else {"state_dict": tensors, "meta": meta}, path)
    return path
