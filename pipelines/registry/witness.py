"""Whether MLflow still has a run that it had all of: a run may be deleted there long after the training.

MLflow takes seconds to load. Nothing can have been deleted from a database file that nobody has written since, so a run
notes how that file was at its end, and MLflow is only asked where it is another one now.
"""

from typing import Any

from mail import addresses
from mail.addresses import without_secrets
from pipelines.registry.client import connect, tracking_uri
from pipelines.registry.run_log import known
from pipelines.registry.waiting import answers_now


def seen() -> dict[str, Any]:
    """Where MLflow is, and how its database is now if that is a file: for `has_lost`, ready for JSON."""
    uri = tracking_uri()
    path = addresses.sqlite_path(uri)
    found = path.stat() if path is not None and path.is_file() else None
    return {"uri": without_secrets(uri), "file": found and [found.st_size, found.st_mtime_ns]}


def has_lost(run_id: str | None, before: dict[str, Any] | None) -> bool:
    """Whether MLflow has a run no more; no, where it is another MLflow, or does not answer at once.

    Args:
        before: what was `seen` when it had the run.
    """
    now = seen()
    if run_id is None or before is None or before["uri"] != now["uri"] or (now["file"] and before == now):
        return False
    return answers_now(tracking_uri()) and not known(connect(wait=False), run_id)
