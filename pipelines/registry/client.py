"""Where MLflow is, and what its refusals look like to a person.

Runs are at `MLFLOW_TRACKING_URI`, or in `mlflow.db` (SQLite) with `mlruns/` beside it in the working directory.
Registered models are there too, unless `MLFLOW_REGISTRY_URI` names another place.
"""

import contextlib
import logging
import os
import random
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

from mail import addresses
from mail.addresses import without_secrets as shown
from mail.errors import UserError
from pipelines.registry import sqlite
from pipelines.registry.waiting import await_answer

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # stages say themselves what they do

EXPERIMENT = "mail-ris"
ATTEMPTS = 6
PASSED_ON = (
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
    "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL",
    "MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING",
)


def tracking_uri() -> str:
    """Where runs and the models that they logged are recorded."""
    return _normal(os.environ.get("MLFLOW_TRACKING_URI") or addresses.sqlite_uri("mlflow.db"))


def registry_uri() -> str:
    """Where versions and their aliases are recorded."""
    return _normal(os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri())


def _normal(uri: str) -> str:
    """A database file's URI with its absolute path; any other as it is."""
    database = addresses.sqlite_path(uri)
    return uri if database is None else addresses.sqlite_uri(database)


def environment() -> dict[str, str]:
    """What a process elsewhere must be told to record where this one does; credentials are its machine's own."""
    return {"MLFLOW_TRACKING_URI": tracking_uri()} | {k: os.environ[k] for k in PASSED_ON if k in os.environ}


def connect(wait: bool = True) -> Any:
    """An `MlflowClient` of both addresses, which are MLflow's own defaults in this process from then on.

    Args:
        wait: find out whether anybody is there; False for whoever tries again anyway.

    Raises:
        UserError: nobody is there, within a minute.
    """
    if wait:
        _await_answers()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with the password that may be in it
    import mlflow

    for chatter in ("alembic", "mlflow.system_metrics", "mlflow.utils.environment"):
        logging.getLogger(chatter).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs the trace of what it raises
    mlflow.set_tracking_uri(tracking_uri())
    for uri in {tracking_uri(), registry_uri()}:
        sqlite.prepare(uri)
    return mlflow.MlflowClient()


def _await_answers() -> None:
    await_answer(tracking_uri(), "MLFLOW_TRACKING_URI")
    if registry_uri() != tracking_uri():
        await_answer(registry_uri(), "MLFLOW_REGISTRY_URI")


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """What MLflow refuses or cannot answer becomes one clear line for the person who waits for it."""
    _await_answers()  # before MLflow is imported, which takes as long
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # ImportError: of a database's driver
        raise UserError(refusal(error)) from error


def refusal(error: BaseException) -> str:
    """What MLflow, or its database, said, with its address and the variables that name it."""
    text = first_line(error)[:300]
    tracking, registry = shown(tracking_uri()), shown(registry_uri())
    if tracking == registry:
        return f"MLflow at {tracking}: {text} (MLFLOW_TRACKING_URI names the server)"
    return f"MLflow at {tracking}, registry {registry}: {text} (MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI name them)"


def first_line(error: BaseException) -> str:
    """Of what an error says, without secrets and SQLAlchemy's hint for its users; or its kind where it says nothing."""
    said = (line for line in str(error).splitlines() if not line.startswith("(raised as a result of"))
    return shown(next(said, type(error).__name__))


def surely(write: Callable[..., Any], *arguments: Any) -> None:
    """Writes what may be written twice: the database is busy, or refuses the second of two equal writes at a time."""
    from mlflow.exceptions import MlflowException

    for attempt in range(ATTEMPTS):
        try:
            write(*arguments)
            return
        except MlflowException:
            if attempt == ATTEMPTS - 1:
                raise
            pause(attempt)


def pause(attempt: int) -> None:
    """A while before the next attempt, at random so that two who collided do not meet again."""
    time.sleep(random.uniform(0.05, 0.2) * 2**attempt)


def experiment(client: Any) -> str:
    """Id of the experiment that holds all runs; made when it is needed first.

    Raises:
        UserError: it was deleted, which only a person should undo.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        # beside the database, not in whatever directory a process happens to be
        database = addresses.sqlite_path(tracking_uri())
        location = addresses.encoded_uri(database.with_name("mlruns")) if database else None
        try:
            return client.create_experiment(EXPERIMENT, artifact_location=location)
        except MlflowException:  # another process made it in between
            found = client.get_experiment_by_name(EXPERIMENT)
    if found.lifecycle_stage == "deleted":
        uri = tracking_uri()
        given = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
        raise UserError(
            f"the experiment {EXPERIMENT} was deleted from MLflow at {shown(uri)}: restore it, with its runs, "
            f"by `{given}mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found.experiment_id
