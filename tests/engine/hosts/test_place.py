"""Who a process is among the others: by settings, by the environment, under SLURM and Open MPI."""

import os

import pytest

from ccnet_jax.common.errors import UserError
from ccnet_jax.engine.hosts.config import HostsConfig
from ccnet_jax.engine.hosts.place import Place, find_place

SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
BY_HAND = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:12345",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    for name in os.environ:
        if name.startswith(
            ("SLURM_", "OMPI_", "JAX_COORDINATOR", "JAX_NUM_", "JAX_PROCESS_", "JAX_LOCAL_", "KUBER")
        ):
            monkeypatch.delenv(name)


def place(monkeypatch, environment, *settings):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return find_place(HostsConfig(*settings))


def test_by_settings(monkeypatch):
    assert place(monkeypatch, {}, "node1:12345", 2, 1) == Place("node1:12345", 2, 1)
    assert place(monkeypatch, {}, "[fe80::1]:12345", 2, 0).address == ("fe80::1", 12345)


def test_by_the_environment_of_which_settings_take_precedence(monkeypatch):
    assert place(monkeypatch, BY_HAND) == Place("10.0.0.1:12345", 2, 1)
    assert place(monkeypatch, BY_HAND, None, None, 0).process == 0
    # by hand is by hand, in a job of SLURM too: all devices are this process's
    assert place(monkeypatch, SLURM | BY_HAND) == Place("10.0.0.1:12345", 2, 1)


def test_under_slurm_each_process_has_a_device(monkeypatch):
    found = place(monkeypatch, SLURM)
    assert (found.processes, found.process, found.local_devices) == (16, 9, (1,))
    assert found.address[0] == "node07"
    assert place(monkeypatch, {}, "node07-ib:12345").coordinator == "node07-ib:12345"  # another network
    assert place(monkeypatch, {"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"}).local_devices is None  # JAX reads it


def test_under_open_mpi_of_any_version(monkeypatch):
    coordinator = "node1:12345"
    assert place(monkeypatch, OPEN_MPI, coordinator) == Place(coordinator, 4, 3, (1,))
    older = {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"}
    found = place(monkeypatch, OPEN_MPI | older)
    assert (found.address[0], found.processes, found.process, found.local_devices) == (
        "10.96.0.1",
        4,
        3,
        (1,),
    )


@pytest.mark.parametrize(
    ("environment", "settings", "words"),
    [
        (
            {},
            (),
            "nothing says what config.hosts.coordinator and config.hosts.processes and config.hosts.process",
        ),
        (
            {},
            ("node1:1", 2),
            "nothing says what config.hosts.process is: set it, or set JAX_COORDINATOR_ADDRESS",
        ),
        (
            BY_HAND | {"JAX_PROCESS_ID": "one"},
            (),
            "JAX_PROCESS_ID=one in the environment must be a whole number",
        ),
        (BY_HAND | {"JAX_PROCESS_ID": "2"}, (), "hosts.process=2 must be below config.hosts.processes=2"),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "node1"}, (), "hosts.coordinator=node1 must be HOST:PORT"),
        (SLURM | {"SLURM_NTASKS": "many"}, (), "the cluster does not say who is who .*many"),
    ],
)
def test_what_is_not_known_or_wrong_is_named(monkeypatch, environment, settings, words):
    with pytest.raises(UserError, match=words) as error:
        place(monkeypatch, environment, *settings)
    assert "\n" not in str(error.value)
