"""A run's metrics, as JSON lines and as TensorBoard events."""

import contextlib
import json
import os
import struct
import time
from collections.abc import Iterable
from typing import Any

from ccnet_jax.common.errors import UserError, explain_write_errors, write_whole
from ccnet_jax.common.files import read_file
from ccnet_jax.common.log import say
from ccnet_jax.engine.folder import RunFolder

_EVENTS = "events.out.tfevents"  # how TensorBoard's files begin
_FLUSH_EVERY = 10.0  # seconds after which TensorBoard shall see what there is


class MetricLog:
    """Appends to `metrics.jsonl` and to TensorBoard's events in a run's folder.

    Args:
      run: the folder of the run.
      start: steps behind the checkpoint that training goes on from; what an earlier process
        logged after it is dropped, since those steps are made again.
      enabled: False makes every call do nothing (all processes but the first).
    """

    def __init__(self, run: RunFolder, start: int, enabled: bool = True):
        self._run, self._enabled = run, enabled
        self._held: list[dict[str, Any]] = []  # lines that could not be written, as on a full disk
        self._works = False
        if enabled:
            texts = _read_lines(run)
            lines = _parse_lines(texts)
            if lost := len(texts[:-1]) - len(_parse_lines(texts[:-1])):  # the last may have been cut off
                say(
                    f"warning: {run.metrics_file} has {lost} lines that are no records of values; they are "
                    "left out"
                )
            self._begin([line for line in lines if line["step"] <= start])

    def _begin(self, lines: list[dict[str, Any]]) -> None:
        """New files, which hold the lines. Raises UserError where they cannot be written."""
        from tensorboardX.event_file_writer import EventsWriter  # not above: beside PyTorch it takes 2 s

        path = self._run.metrics_file
        write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
        with explain_write_errors(path, "make room there"):
            self._reader = path.open("rb")  # which reads also when the file has been removed
            self._lines = path.open("a", buffering=1)
            for events in self._run.path.glob(f"{_EVENTS}*"):  # all is written again: some may be lost
                events.unlink()
            self._events = EventsWriter(str(self._run.path / "events"))
            for line in lines:
                self._add_scalars(line)
            self._flush_events()
        self._held, self._works = [], True

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line {"step": step, **values}, and one scalar of each value; held where a disk is full."""
        if not self._enabled:
            return
        line = {"step": step, **values}
        if self._works:
            try:
                self._lines.write(json.dumps(line) + "\n")
                self._add_scalars(line)
                if time.monotonic() - self._flushed > _FLUSH_EVERY:
                    self._flush_events()
                return
            except OSError:
                self._works = False
        self._held.append(line)

    def _add_scalars(self, line: dict[str, Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event  # see above
        from tensorboardX.summary import scalar

        for name, value in line.items():
            if name != "step":
                summary = scalar(name, value)
                self._events.write_event(Event(wall_time=time.time(), step=line["step"], summary=summary))

    def _flush_events(self) -> None:
        self._events.flush()
        self._flushed = time.monotonic()

    def flush(self) -> None:
        """Everything so far to disk, before a checkpoint says that it is there.

        Also what is held, and what was removed, unless the whole folder was. Raises UserError where it cannot
        be written; nothing is lost by that.
        """
        if not self._enabled or not self._run.path.is_dir():
            return
        if not self._works or not self._run.metrics_file.exists():
            self._write_again()
        try:
            self._flush_events()
            os.fsync(self._lines.fileno())
        except OSError as error:
            self._works = False
            raise UserError(
                f"{self._run.metrics_file} cannot be written ({error.strerror}); make room there"
            ) from None

    def _write_again(self) -> None:
        self._works = False
        self._close()
        self._reader.seek(0)
        lines = _parse_lines(self._reader.read().splitlines())
        self._begin(lines + [line for line in self._held if line not in lines])

    def _close(self) -> None:
        for file in (self._lines, self._events):
            with contextlib.suppress(OSError, ValueError):  # it is full, or closed; what is missing is held
                file.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        """Everything to disk. Raises UserError where that fails, unless there is another error."""
        if not self._enabled:
            return
        try:
            self.flush()
        except UserError:
            if kind is None:
                raise
        finally:
            self._close()


def read_log(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; without one that was cut off when the process was killed."""
    return _parse_lines(_read_lines(run))


def _read_lines(run: RunFolder) -> list[bytes]:
    """The lines of metrics.jsonl, whatever they are. Raises UserError where it cannot be read."""
    try:
        text = read_file(run.metrics_file)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f"{run.metrics_file} cannot be read ({error.strerror}); move it away, or choose another --workdir"
        ) from None
    return text.splitlines()


def _parse_lines(texts: Iterable[bytes | str]) -> list[dict[str, Any]]:
    """The lines that are whole."""
    lines = []
    for line in texts:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and "step" in values and _are_numbers(values):
            lines.append(values)
    return lines


def _are_numbers(values: dict[str, Any]) -> bool:
    """Whether a line's step is a number of steps, and every value a number."""
    kinds = {type(value) for value in values.values()}
    return kinds <= {int, float} and type(values["step"]) is int and 0 <= values["step"] < 2**63


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
    """Whether metrics.jsonl has what an evaluation of a split found after `step` steps."""
    return any(
        line["step"] == step and any(name.startswith(f"{split}/") for name in line) for line in read_log(run)
    )
