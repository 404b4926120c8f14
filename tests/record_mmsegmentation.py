"""Prints what mmsegmentation computes, for the tests that hold numbers of it.

The tests need none of this. It was run with Python 3.11 and

    pip install torch==2.13.0 torchvision mmcv-lite==2.2.0 mmengine==0.10.7 ftfy regex prettytable scipy
    pip install --no-deps onedl-mmsegmentation==1.4.2

from the root of a clone, as `PYTHONPATH=. python tests/record_mmsegmentation.py`.
"""

import itertools
import sys
import types
import zlib
from unittest import mock

import numpy as np

sys.modules["mmcv.ops"] = mock.MagicMock()  # compiled; none of it is used here

import torch  # noqa: E402
from mmcv.image.geometric import _scale_size, rescale_size  # noqa: E402
from mmcv.transforms import Resize  # noqa: E402
from mmengine.optim import PolyLR  # noqa: E402
from mmseg.models.losses import CrossEntropyLoss  # noqa: E402
from mmseg.structures.sampler import OHEMPixelSampler  # noqa: E402
from scipy.ndimage import zoom  # noqa: E402

from tests.weights import parity_cases as cases  # noqa: E402

RATIOS = (0.5, 0.75, 1.25, 1.5, 1.75, 2.0)
OHEM = [(0.3, 10), (0.3, 20), (0.9, 5)]  # threshold, pixels kept of each image


def losses() -> None:
    """The loss and a projection of its gradient."""
    logits, labels = cases.loss_inputs()
    projection = torch.from_numpy(np.random.RandomState(1).standard_normal(logits.shape))
    y = torch.from_numpy(labels.astype(np.int64))

    def record(
        name: str, weights: list[float] | None = None, sampler: tuple[float, int] | None = None
    ) -> None:
        x = torch.from_numpy(logits).double().requires_grad_()
        by_channel = x.permute(0, 3, 1, 2)
        loss = CrossEntropyLoss(class_weight=weights)
        hard = None
        if sampler is not None:
            context = types.SimpleNamespace(ignore_index=cases.VOID, loss_decode=loss)
            hard = OHEMPixelSampler(context, thresh=sampler[0], min_kept=sampler[1]).sample(
                by_channel, y[:, None]
            )
        value = loss(by_channel, y, weight=hard, ignore_index=cases.VOID)
        (gradient,) = torch.autograd.grad(value, x)
        print(f'    "{name}": ({value.item():.8f}, {(gradient * projection).sum().item():.8f}),')

    weights = cases.LOSS_CLASS_WEIGHTS.tolist()
    record("plain")
    record("weighted", weights)
    for sampler in OHEM:
        record("ohem {} {}".format(*sampler), sampler=sampler)
        record("weighted ohem {} {}".format(*sampler), weights, sampler)


def poly() -> None:
    """The learning rate of every step."""
    for steps, base, lowest, power in [(1, 0.01, 1e-4, 0.9), (2, 0.01, 1e-4, 0.9), (7, 0.1, 0.0, 0.9)]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
        schedule = PolyLR(optimizer, eta_min=lowest, power=power, begin=0, end=steps, by_epoch=False)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        print(steps, base, lowest, power, [float(f"{rate:.9g}") for rate in rates])


def sizes() -> None:
    """(height, width) of images that mmcv's Resize and SciPy's zoom scale; a checksum of those of many."""
    for height, width in [(97, 131), (131, 97), (360, 480), (375, 500), (683, 1023), (33, 2047)]:
        image, rows = np.zeros((height, width), np.uint8), []
        for ratio in RATIOS:
            resized = Resize(scale_factor=ratio, keep_ratio=True)({"img": image})
            rows.append((resized["img_shape"], zoom(image, ratio, order=1, prefilter=False).shape))
        print(f"    {(height, width)}: {rows},")
    mmcv, scipy = [], []
    for height, width in itertools.product(range(32, 2100, 67), range(32, 2100, 13)):
        for ratio in RATIOS:
            scale = _scale_size((width, height), ratio)
            mmcv.append(rescale_size((width, height), scale)[::-1])
            scipy.append([round(side * ratio) for side in (height, width)])  # as `zoom` has it
    for name, found in {"mmcv": mmcv, "scipy": scipy}.items():
        print(name, zlib.crc32(np.array(found, "<i4").tobytes()))


if __name__ == "__main__":
    losses()
    poly()
    sizes()
