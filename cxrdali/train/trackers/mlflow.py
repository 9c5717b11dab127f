"""MLflow: its server or database, by its own variables, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME first."""

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from cxrdali.runtime.distributed import StoppedTogether
from cxrdali.train.tracker import Session, TrackedRun, Tracker, needed

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # its own: 5 minutes and more
EPOCH, ID = "epoch", "cxrdali.id"
MOST = 1000  # metrics that one call may bring
LONGEST = 500  # characters of a parameter, in every version


@dataclass(frozen=True)
class Mlflow(Tracker):
    """The client alone: MLflow's `start_run` would add the user, the program and git."""

    name: ClassVar[str] = "mlflow"

    def check(self) -> None:
        needed(self.name, "mlflow")
        import mlflow

        if not mlflow.get_tracking_uri().startswith(("http", "databricks")):
            needed(self.name, "sqlalchemy", "alembic")

    @contextlib.contextmanager
    def following(self, run: TrackedRun) -> Iterator[Session]:
        """The run is found by its id, so what the server has decides what it is sent."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "cxrdali")
        known = client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else client.create_experiment(name)
        found = client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'", max_results=1)
        if found:
            there, sent = found[0].info.run_id, int(found[0].data.metrics.get(EPOCH, 0))
            client.update_run(there, status="RUNNING")
        else:
            tags = {ID: run.id} | ({"cxrdali.group": run.group} if run.group else {})
            there, sent = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id, 0
            about = [Param(legal(key), str(value)[:LONGEST]) for key, value in run.about.items()]
            client.log_batch(there, params=about)

        def send(epoch: int, values: Mapping[str, float]) -> None:
            now = int(time.time() * 1000)
            metrics = [Metric(legal(key), value, now, epoch) for key, value in {**values, EPOCH: epoch}.items()]
            for start in range(0, len(metrics), MOST):  # the epoch's number last: then all of it is there
                client.log_batch(there, metrics[start : start + MOST])

        try:
            yield Session(sent, send)
        except Exception as error:
            client.set_terminated(there, "KILLED" if isinstance(error, StoppedTogether) else "FAILED")
            raise
        client.set_terminated(there, "FINISHED")


def legal(name: str) -> str:
    """A name with the characters that MLflow takes; others as their number, so that no two names become one."""
    return re.sub(r"[^\w\-. :/]", lambda found: f"_{ord(found.group()):x}_", name, flags=re.ASCII)
