"""One of two processes: it looks for folders and tests a detector, and then adds up until something happens.

Its arguments are COORDINATOR PROCESS SILENCE_SECONDS.
"""

import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from ccnet_jax.common.errors import UserError
from ccnet_jax.config import command_line
from ccnet_jax.engine import shared
from ccnet_jax.engine.folder import RunFolder
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.engine.hosts.join import join_hosts
from ccnet_jax.engine.shared import check_shared
from ccnet_jax.evaluation.evaluate_instances import evaluate_instances
from tests.evaluation.test_evaluate_instances import DATA, SOURCE, imperfect


def main():
    coordinator, process, timeout = sys.argv[1:]
    settings = HostsConfig(coordinator, 2, int(process), 60, int(timeout))
    with join_hosts(settings, {}):
        check_shared(RunFolder.at("shared"))
        shared.TIMEOUT = 0.5
        try:
            check_shared(RunFolder.at(f"of-{process}"))
        except UserError as error:
            print("error:", error)
        print(json.dumps(evaluate_instances(imperfect, {}, SOURCE, DATA, 1)), flush=True)
        while True:
            total = multihost_utils.process_allgather(np.ones(4)).sum()
            assert total == 4 * jax.process_count()


if __name__ == "__main__":
    command_line.run(main)
