"""One of two processes that write checkpoints together, until the first one finds no room for its part.

The second checkpoint is written after an error that both have met.

Its arguments are COORDINATOR PROCESS.
"""

import contextlib
import sys
import time

import jax
import jax.numpy as jnp

from ccnet_jax.common import devices
from ccnet_jax.config import command_line
from ccnet_jax.engine.checkpoints import Checkpoints
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.engine.hosts.join import join_hosts
from tests.helpers import small_files_only


def main():
    coordinator, process = sys.argv[1:]
    with join_hosts(HostsConfig(coordinator, 2, int(process), 60, 60), {}):
        everywhere = devices.replicated_sharding(devices.data_mesh())
        values = jax.jit(lambda: {"x": jnp.arange(100_000.0)}, out_shardings=everywhere)()
        with Checkpoints(RunFolder.at("run")) as checkpoints:
            checkpoints.save_last(1, values, values)
            checkpoints.finish()
            try:
                raise ArithmeticError("not finite")
            except ArithmeticError as error:
                checkpoints.met_by_all_hosts = error
                checkpoints.save_last(2, values, values)
                checkpoints.finish()
                checkpoints.met_by_all_hosts = None
            with small_files_only() if process == "0" else contextlib.nullcontext():
                checkpoints.save_last(3, values, values)
                while True:
                    time.sleep(0.1)
                    checkpoints.check()


if __name__ == "__main__":
    command_line.run(main)
