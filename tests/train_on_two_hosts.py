"""One of two processes that train together: its arguments are PROCESS PORT CAMVID WORKDIR."""

import pathlib
import sys

import jax

from ccnet_jax import train
from ccnet_jax.run.folder import RunFolder
from tests.helpers import load_config

if __name__ == "__main__":
    process, port, camvid, workdir = sys.argv[1:]
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    config = load_config(
        "demo",
        data__name="camvid",
        data__dir=camvid,
        data__crop=(48, 64),
        batch_size=4,
        steps=3,
        log_every=1,
        eval_every=3,
        optimizer__learning_rate=0.01,
        checkpoint_every=2,
    )
    train.train(config, RunFolder(pathlib.Path(workdir)))
