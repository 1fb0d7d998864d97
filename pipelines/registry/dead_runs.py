"""Runs that MLflow calls RUNNING for ever, because the process that wrote them was killed: the next start ends them.

A run says which process writes it. Only those are ended whose process ran on this machine and is no more: what another
machine does cannot be seen from here.
"""

import json
from typing import Any

from pipelines.processes import identity, lives

FOLDER_TAG = "mail.folder"
DRIVER_TAG = "mail.driver"


def driver(pid: int | None = None) -> str:
    """The tag's value: this process, or another of this machine."""
    return json.dumps(identity(pid))


def end_dead_runs(client: Any, experiment: str, but: str | None = None) -> list[str]:
    """Marks as KILLED what is RUNNING and has no living process; returns the runs' ids.

    Args:
        but: the run that goes on.
    """
    ended = []
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000):
        if run.info.run_id != but and _is_dead(run.data.tags.get(DRIVER_TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")
            ended.append(run.info.run_id)
    return ended


def _is_dead(written: str) -> bool:
    try:
        return lives(json.loads(written)) is False
    except (ValueError, TypeError, AttributeError, KeyError):  # of nobody, or of an earlier version
        return False
