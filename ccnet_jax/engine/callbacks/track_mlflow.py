"""MLflow."""

import os
from collections.abc import Mapping

from ccnet_jax.engine.callbacks.tracker import Tracker


class MLflow(Tracker):
    """Logs to the server that MLFLOW_TRACKING_URI names; without one into the run's folder, mlflow.db."""

    package = "mlflow"

    def start(self, known: str | None) -> str:
        """Open or create a run in the experiment MLFLOW_EXPERIMENT_NAME, "ccnet_jax" by default."""
        from mlflow import MlflowClient  # not above: optional, and it takes seconds

        run = self.engine.run
        here = f"sqlite:///{(run.path / 'mlflow.db').resolve()}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", here))
        if known is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ccnet_jax")
            found = self._client.get_experiment_by_name(name)
            experiment = self._client.create_experiment(name) if found is None else found.experiment_id
            known = str(self._client.create_run(experiment, run_name=run.path.name).info.run_id)
            for key, value in self._settings.items():
                self._client.log_param(known, key, value)
        else:
            self._client.update_run(known, status="RUNNING")
        self._run = known
        return known

    def send(self, step: int, values: Mapping[str, float]) -> None:
        """A metric for each value; the "/" of "val/mIoU" is allowed there."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def finish(self, is_whole: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, "FINISHED" if is_whole else "FAILED")
