"""One MLflow run per training: created by the driver, written from a thread that waits for a server that is away.

Logging never holds up or ends a training: what the server does not take is tried again, as often as it takes. A metric
keeps the time at which it was measured, so that what is sent twice is stored once; and steps that are computed, or told
(`mail.training.curves`), once more after a resume are left out where the run has them. What MLflow refuses (the run was
deleted) is not tried again: the log then says that it is not whole, and `pipelines.training.catching_up` mends it.
"""

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mail.addresses import without_secrets
from pipelines.registry.client import answers, connect, experiment, first_line, surely
from pipelines.registry.dead_runs import DRIVER_TAG, FOLDER_TAG, driver, end_dead_runs

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

RETRY_SECONDS = 5.0
KEY_TAG = "mail.key"

# This log tries again by itself, and a person who begins a run should not wait for MLflow's own seven tries of 120 s.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def start_run(
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    run_id: str | None = None,
    key: str | None = None,
    inputs: "Sequence[DatasetInput]" = (),
    folder: str | None = None,
) -> str:
    """Creates a run, or finds one that was interrupted, and returns its id: another one where that was deleted.

    Runs whose processes were killed are ended.

    Args:
        params: nested config; logged flat (`model.num_hidden_layers`).
        tags: labels. inputs: what it reads (`pipelines.registry.datasets`).
        run_id: of the interrupted one. key: a unique word for it, where its id may have been lost.
        folder: of the run's files, a label.

    Raises:
        UserError: MLflow cannot be reached, or the experiment was deleted.
    """
    from mlflow.entities import Param

    with answers():
        client = connect()
        if run_id is not None and known(client, run_id):
            client.set_tag(run_id, DRIVER_TAG, driver())
            end_dead_runs(client, client.get_run(run_id).info.experiment_id, run_id)
            return run_id
        where = experiment(client)
        found = client.search_runs([where], f"tags.`{KEY_TAG}` = '{key}'", max_results=1) if key else []
        if found:
            run_id = found[0].info.run_id
        else:
            own = {KEY_TAG: key, FOLDER_TAG: folder, DRIVER_TAG: driver()}
            tags = {k: without_secrets(v) for k, v in ({**tags, **own}).items() if v is not None}
            run_id = client.create_run(where, run_name=name, tags=tags).info.run_id
        flat = [Param(k, without_secrets(str(v))[:6000]) for k, v in flatten(params).items()]
        for start in range(0, len(flat), 100):
            client.log_batch(run_id, params=flat[start : start + 100])
        if inputs:
            surely(client.log_inputs, run_id, list(inputs))  # another run may note the same data set at this moment
        end_dead_runs(client, where, run_id)
    return run_id


def known(client: Any, run_id: str) -> bool:
    """Whether this tracking store has the run, not deleted (it may be another store's); believed while it is away."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage != "deleted"
    except MlflowException as error:
        return error.error_code != "RESOURCE_DOES_NOT_EXIST"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class RunLog:
    """Writes to a run from a thread of its own. Nothing here raises; what MLflow does not take is tried again.

    Args:
        run_id: of a run that `start_run` made.
        say: tells the person, once, when the server went away and when it is back.
    """

    def __init__(self, run_id: str, say: Callable[[str], None] = lambda _: None):
        self.run_id, self._say = run_id, say
        self._client = connect(wait=False)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._ended = threading.Event()
        # the run refuses to be written, or is another process's now: no later step may be there without those before
        self._gone = False
        self._aside: list[Callable[[], Any]] = []  # files that were not taken, to be tried once more at the end
        self._whole, self._away = True, False
        self._deadline = float("inf")
        self._logged: dict[str, int] = {}
        self._images: set[tuple[str, int]] | None = None  # key and step; None: to be looked up
        self._queue.put(self._reopen)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, records: Sequence[Mapping[str, float]], prefix: str = "train/") -> None:
        """Curves: each record has `step`, perhaps `time` (seconds since 1970), and any metrics.

        Steps that the run has already of a metric are left out.
        """
        now = time.time()
        rows = [(int(r["step"]), int(1000 * r.get("time", now)), r) for r in records]
        self._queue.put(lambda: self._metrics(rows, prefix))

    def tags(self, values: Mapping[str, Any]) -> None:
        shown = {k: without_secrets(str(v)) for k, v in values.items()}
        self._queue.put(lambda: [self._client.set_tag(self.run_id, k, v) for k, v in shown.items()])

    def image(self, read: Callable[[], np.ndarray], key: str, step: int) -> None:
        """An RGB image (H, W, 3) uint8 of a step, read once it is its turn; left out if the run has it already."""
        self._queue.put(lambda: self._file(lambda: self._image(read, key, step)))

    def text(self, text: str, path: str) -> None:
        self._queue.put(lambda: self._file(lambda: self._client.log_text(self.run_id, text, path)))

    def close(self, status: str = "FINISHED", timeout: float = 60.0) -> bool:
        """Ends the run once everything is written, or gives up after `timeout` seconds; whether all was written."""
        if self._away:
            self._say(f"waiting for MLflow, {timeout:.0f} s at most")
        self._queue.put(self._files_again)
        self._queue.put(lambda: self._client.set_terminated(self.run_id, status))
        self._deadline = time.monotonic() + timeout
        self._queue.put(None)
        self._thread.join(timeout + 30)
        return self._ended.is_set()

    def abandon(self) -> None:
        """Writes nothing more, not even how the run ended: it is another process's now."""
        self._gone, self._whole = True, False
        self._queue.put(None)
        self._thread.join(5)

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            while not self._gone:
                try:
                    call()
                    if self._away:
                        self._say("MLflow is back: the run's record is complete again")
                    self._away = False
                    break
                except Exception as error:
                    if _is_refusal(error):
                        self._gone, self._whole = True, False
                        self._say(f"MLflow refuses the run's record ({first_line(error)[:160]}); the training goes on")
                        break
                    if not self._away:
                        self._say(
                            f"MLflow does not answer ({first_line(error)[:160]}); the training goes on, I try again"
                        )
                    self._away = True
                    if time.monotonic() > self._deadline:
                        self._whole = False
                        break
                    time.sleep(RETRY_SECONDS)
        if self._whole:
            self._ended.set()

    def _file(self, write: Callable[[], Any]) -> None:
        """Files go another way than figures, and never hold those up."""
        try:
            write()
        except FileNotFoundError:
            pass  # a picture that was deleted
        except Exception as error:
            if not self._aside:
                self._say(f"MLflow does not take a file ({first_line(error)[:160]}); I try again at the end")
            self._aside.append(write)

    def _files_again(self) -> None:
        again, self._aside = self._aside, []
        for number, write in enumerate(again):
            try:
                write()
            except Exception as error:
                left = len(again) - number
                self._say(f"MLflow does not have {left} file(s) of the run ({first_line(error)[:160]})")
                self._whole = False
                return

    def _metrics(self, rows: list[tuple[int, int, Mapping[str, float]]], prefix: str) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(prefix + key, float(value), milliseconds, step)
            for step, milliseconds, record in rows
            for key, value in record.items()
            if key not in ("step", "time") and value is not None and step > self._logged.get(prefix + key, -1)
        ]
        for start in range(0, len(metrics), 900):
            some = metrics[start : start + 900]
            self._client.log_batch(self.run_id, metrics=some)
            for metric in some:
                self._logged[metric.key] = max(metric.step, self._logged.get(metric.key, -1))

    def _image(self, read: Callable[[], np.ndarray], key: str, step: int) -> None:
        if self._images is None:
            names = [Path(f.path).name for f in self._client.list_artifacts(self.run_id, "images")]
            whole = [n for n in names if n.endswith(".webp")]  # the smaller copy, which MLflow writes last
            self._images = {(m[1], int(m[2])) for n in whole if (m := re.match(r"(.+?)[+%]step[+%](\d+)[+%]", n))}
        if (key, step) in self._images:
            return
        known, self._images = self._images, None  # if it fails half-way, only the server knows what it has
        self._client.log_image(self.run_id, read(), key=key, step=step)
        self._images = known | {(key, step)}

    def _reopen(self) -> None:
        """Marks the run as running, and looks up the last step of each curve that an interrupted run has already."""
        self._client.update_run(self.run_id, status="RUNNING")  # also if somebody ended it from outside
        for key in self._client.get_run(self.run_id).data.metrics:
            if key.startswith("system/"):
                continue  # of `pipelines.registry.system_metrics`
            self._logged[key] = max(m.step for m in self._client.get_metric_history(self.run_id, key))


def _is_refusal(error: Exception) -> bool:
    """An answer that will not change, such as a parameter that is too long, or a picture that was deleted."""
    from mlflow.exceptions import MlflowException, RestException

    refused = isinstance(error, MlflowException) and error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
    return (
        refused
        or isinstance(error, FileNotFoundError)
        or (isinstance(error, RestException) and error.get_http_status_code() in (400, 404))
    )
