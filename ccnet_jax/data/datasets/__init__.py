"""The data sets: one file each, and one line each in `DATASETS`."""

from ccnet_jax.data.datasets import ade20k, camvid, cityscapes, folder, streets, voc2012
from ccnet_jax.data.sources import DataSet

DATASETS: dict[str, DataSet] = {
    "ade20k": ade20k.DATA_SET,
    "camvid": camvid.DATA_SET,
    "cityscapes": cityscapes.DATA_SET,
    "folder": folder.DATA_SET,
    "streets": streets.DATA_SET,
    "voc2012": voc2012.DATA_SET,
}
