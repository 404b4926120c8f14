"""The settings of training on several hosts."""

import dataclasses

from ccnet_jax.common.fields import setting

_LONGEST = 10**6  # seconds, eleven days
_WAIT = 300  # seconds; a machine of a cloud takes two or three minutes to start
_SILENCE = 60  # seconds; above the pauses of a loaded machine, and the others end within two minutes


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """`config.hosts`: where the processes of a run meet, with `config.distributed`."""

    coordinator: str | None = setting(
        None,
        "HOST:PORT at which process 0 waits for the others; None: as the environment says",
        resumable=True,
        before=None,
    )
    processes: int | None = setting(
        None,
        "number of processes; None: as the environment says",
        at_least=1,
        at_most=2**16,
        resumable=True,
        before=None,
    )
    process: int | None = setting(
        None,
        "number of this process, from 0; None: as the environment says",
        at_least=0,
        at_most=2**16,
        resumable=True,
        before=None,
    )
    wait_seconds: int = setting(
        _WAIT,
        "seconds to wait for the others at the start",
        at_least=1,
        at_most=_LONGEST,
        resumable=True,
        before=_WAIT,
    )
    timeout_seconds: int = setting(
        _SILENCE,
        "seconds without a sign of life after which a process is lost, and all others end",
        at_least=2,
        at_most=_LONGEST,
        resumable=True,
        before=_SILENCE,
    )

    def problems(self) -> list[str]:
        """Messages about settings that do not go together."""
        found = []
        _, colon, port = (self.coordinator or ":1").rpartition(":")
        if not colon or not port.isdecimal() or not 0 < int(port) < 2**16:
            found.append(
                f"config.hosts.coordinator={self.coordinator} must be HOST:PORT, for example node1:12345"
            )
        if self.process is not None and self.processes is not None and self.process >= self.processes:
            found.append(
                f"config.hosts.process={self.process} must be below config.hosts.processes={self.processes}; "
                "processes are numbered from 0"
            )
        return found
