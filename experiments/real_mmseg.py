"""mmsegmentation itself, on a CPU, without mmcv's compiled ops; in the environment of `record_gradients`.

mmcv-lite has no `mmcv.ops`. CCHead needs one class of it, CrissCrossAttention, which is pure PyTorch: it is
loaded from mmcv's own file, whose path the environment variable CC_ATTENTION names. Every other op is None.
"""

import copy
import importlib.util
import os
import pathlib
import sys
import types
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import PixelData

CONFIGS = {50: "ccnet_r50-d8_4xb2-80k_cityscapes-769x769", 101: "ccnet_r101-d8_4xb2-80k_cityscapes-512x1024"}


def _load_attention() -> None:
    """Put `mmcv.ops` with mmcv's attention in its place; before anything of mmsegmentation is imported."""
    ops = types.ModuleType("mmcv.ops")
    ops.__path__ = []
    spec = importlib.util.spec_from_file_location("mmcv.ops.cc_attention", os.environ["CC_ATTENTION"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mmcv.ops"] = ops
    spec.loader.exec_module(module)
    ops.CrissCrossAttention = module.CrissCrossAttention  # type: ignore[attr-defined]
    ops.__getattr__ = lambda name: None  # type: ignore[method-assign]


_load_attention()

import mmseg  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402

register_all_modules(init_default_scope=True)


def config(depth: int, valid_pixels: bool, side: int) -> Config:
    """mmsegmentation's own config of this depth, without dropout and without the download of a backbone.

    Args:
      depth: a key of `CONFIGS`.
      valid_pixels: the loss is the mean over pixels that are not void (`avg_non_ignore`), or over all.
      side: of the images, to which its preprocessor pads.
    """
    folder = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs" / "ccnet"
    found = Config.fromfile(folder / f"{CONFIGS[depth]}.py")
    model = found.model
    model.pretrained = None
    model.data_preprocessor.size = (side, side)
    for head in (model.decode_head, model.auxiliary_head):
        head.dropout_ratio, head.loss_decode.avg_non_ignore = 0.0, valid_pixels
    for part in (model.backbone, model.decode_head, model.auxiliary_head):
        part.norm_cfg.type = "BN"  # SyncBN of one process
    return found


def build(settings: Config) -> torch.nn.Module:
    """The network, in training mode."""
    return MODELS.build(copy.deepcopy(settings.model)).train()


def samples(labels: np.ndarray) -> list[Any]:
    """Labels [B, H, W] as mmsegmentation's losses take them."""
    found = []
    for one in labels:
        sample = SegDataSample(
            metainfo={"img_shape": one.shape, "ori_shape": one.shape, "pad_shape": one.shape}
        )
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(one.astype(np.int64))[None])
        found.append(sample)
    return found
