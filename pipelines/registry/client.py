"""Where MLflow is, and what its refusals look like to a person.

MLflow is at `MLFLOW_TRACKING_URI`, or in `mlflow.db` (SQLite) with `mlruns/` beside it in the working directory.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mail import addresses
from mail.errors import UserError

EXPERIMENT = "mail-ris"


def tracking_uri() -> str:
    """Where runs and models are recorded."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    database = addresses.sqlite_path(given) if given else Path("mlflow.db")
    return str(given) if database is None else addresses.sqlite_uri(database)


def connect() -> Any:
    """An `MlflowClient` of `tracking_uri()`, which also becomes MLflow's own default in this process."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    for chatter in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
        logging.getLogger(chatter).setLevel(logging.ERROR)
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient(uri)


@contextlib.contextmanager
def answers() -> Iterator[None]:
    """What MLflow refuses or cannot answer becomes one clear line for the person who waits for it."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # ImportError: of a database's driver
        text = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"MLflow at {tracking_uri()}: {text} (MLFLOW_TRACKING_URI names the server)") from error


def experiment(client: Any) -> str:
    """Id of the experiment that holds all runs; made when it is needed first."""
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
    return found.experiment_id
