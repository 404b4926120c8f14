"""A run's metrics, as JSON lines and as TensorBoard events."""

import json

from ccnet_jax.errors import write_whole, writing
from ccnet_jax.run.folder import RunFolder


class MetricLog:
    """Appends to `metrics.jsonl` and to TensorBoard's events in a run's folder.

    Args:
      run: the folder of the run.
      start: updates behind the checkpoint that training goes on from; what an earlier process
        logged after it is dropped, since those updates are made again.
      enabled: False makes every call do nothing (all processes but the first).
    """

    def __init__(self, run: RunFolder, start: int, enabled: bool = True):
        self._enabled = enabled
        if not enabled:
            return
        import tensorboardX  # not above: where PyTorch is installed it takes two seconds

        path = run.metrics_file
        kept = []
        with writing(path, "move it away, or choose another --workdir"):
            lines = path.read_bytes().splitlines() if path.exists() else []
        for line in lines:
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line.decode() + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                pass  # a line cut off when the process was killed, or damaged
        write_whole(path, "".join(kept))
        self._lines = path.open("a", buffering=1)
        self._events = tensorboardX.SummaryWriter(str(run), purge_step=start + 1, flush_secs=10)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line {"step": step, **values}, and one scalar of each value."""
        if not self._enabled:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *error: object) -> None:
        """Everything to disk."""
        if self._enabled:
            self._lines.close()
            self._events.close()
