"""A run's metrics, as JSON lines and as TensorBoard events."""

import json
import os
import struct
from collections.abc import Iterable
from typing import Any

from ccnet_jax.errors import UserError, write_whole, writing
from ccnet_jax.run.folder import RunFolder

_EVENTS = "events.out.tfevents"  # how TensorBoard's files begin


class MetricLog:
    """Appends to `metrics.jsonl` and to TensorBoard's events in a run's folder.

    Args:
      run: the folder of the run.
      start: updates behind the checkpoint that training goes on from; what an earlier process
        logged after it is dropped, since those updates are made again.
      enabled: False makes every call do nothing (all processes but the first).
    """

    def __init__(self, run: RunFolder, start: int, enabled: bool = True):
        self._run, self._enabled = run, enabled
        if enabled:
            self._begin([line for line in logged(run) if line["step"] <= start])

    def _begin(self, lines: list[dict[str, Any]]) -> None:
        """New files, which hold the lines."""
        import tensorboardX  # not above: where PyTorch is installed it takes two seconds

        path = self._run.metrics_file
        write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
        with writing(path):
            self._lines = path.open("a+", buffering=1)
        for events in self._run.path.glob(f"{_EVENTS}*"):  # all is written again: some of it may be lost
            events.unlink()
        self._events = tensorboardX.SummaryWriter(str(self._run.path), flush_secs=10)
        for line in lines:
            self._add_scalars(line)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line {"step": step, **values}, and one scalar of each value."""
        if not self._enabled:
            return
        line = {"step": step, **values}
        self._lines.write(json.dumps(line) + "\n")
        self._add_scalars(line)

    def _add_scalars(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                self._events.add_scalar(name, value, line["step"])

    def write_again(self) -> None:
        """All lines, where the files were removed: the one that is open still has them."""
        if self._enabled and not self._run.metrics_file.exists():
            self._lines.seek(0)
            lines = _parsed(self._lines.read().splitlines())
            self.__exit__()
            self._begin(lines)

    def flush(self) -> None:
        """Everything so far to disk, before a checkpoint says that it is there."""
        if self._enabled:
            self._events.flush()
            os.fsync(self._lines.fileno())

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *error: object) -> None:
        """Everything to disk."""
        if self._enabled:
            self._lines.close()
            self._events.close()


def logged(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; without one that was cut off when the process was killed."""
    try:
        text = run.metrics_file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{run.metrics_file} cannot be read ({error.strerror}); move it away, or choose another --workdir"
        ) from None
    return _parsed(text.splitlines())


def _parsed(texts: Iterable[bytes | str]) -> list[dict[str, Any]]:
    """The lines that are whole."""
    lines = []
    for line in texts:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            lines.append(values)
    return lines


def points(run: RunFolder) -> list[tuple[int, str, float]]:
    """(step, name, value) of every scalar in TensorBoard's files."""
    from tensorboardX.proto.event_pb2 import Event  # see above

    found = []
    for path in sorted(run.path.glob(f"{_EVENTS}*")):
        data = path.read_bytes()
        while len(data) >= 12:  # records: length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def is_evaluated(run: RunFolder, step: int, split: str) -> bool:
    """Whether metrics.jsonl has what an evaluation of a split found after `step` updates."""
    return any(
        line["step"] == step and any(name.startswith(f"{split}/") for name in line) for line in logged(run)
    )
