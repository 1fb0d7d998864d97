"""MLflow's records in a file (SQLite): made once, whoever comes first, and waited for while another process writes.

MLflow makes its tables step by step when it first opens a database. Two that do it at a time meet half-made tables, so
one does it while the others wait for a lock beside the file; the system lets go of it however its process ends.
"""

import contextlib
import fcntl
import functools
import sqlite3
from typing import Any

from mail import addresses

WAIT_SECONDS = 60  # for another process's writing; SQLite's own 5 are short on a slow or a network disk


@functools.cache
def prepare(uri: str) -> None:
    """Makes the database of an URI ready, or waits for whoever does; does nothing for other addresses than files."""
    path = addresses.sqlite_path(uri)
    if path is None:
        return
    _wait_for_writers()
    if not path.parent.is_dir():
        return  # MLflow says so
    with contextlib.ExitStack() as stack:
        # where no lock can be had (a read-only folder, a disk without locks) MLflow is asked all the same
        with contextlib.suppress(OSError):
            lock = stack.enter_context(open(path.with_name(f"{path.name}.lock"), "w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        import mlflow

        mlflow.MlflowClient(uri, uri).search_experiments(max_results=1)


@functools.cache
def _wait_for_writers() -> None:
    """Every SQLite connection of this process waits for its turn instead of failing; MLflow has no option for that."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def wait(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute(f"PRAGMA busy_timeout = {1000 * WAIT_SECONDS}")
