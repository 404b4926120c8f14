"""The data sets: one file each, and one line each in `DATASETS`."""

from ccnet_jax.data.datasets import (
    ade20k,
    camvid,
    cityscapes,
    coco,
    folder,
    streets,
    streets_instances,
    voc2012,
)
from ccnet_jax.data.sources import DataSet

DATASETS: dict[str, DataSet] = {
    "ade20k": ade20k.DATA_SET,
    "camvid": camvid.DATA_SET,
    "cityscapes": cityscapes.DATA_SET,
    "coco": coco.DATA_SET,
    "folder": folder.DATA_SET,
    "streets": streets.DATA_SET,
    "streets_instances": streets_instances.DATA_SET,
    "voc2012": voc2012.DATA_SET,
}
