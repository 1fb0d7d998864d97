"""Runs that MLflow calls RUNNING for ever, because the process that wrote them was killed: the next start ends them.

A run says which process writes it. Only a run of the same name and folder, begun by a process of this machine that is
no more, is ended: what another machine does cannot be seen from here.
"""

import os
import socket
from typing import Any

FOLDER_TAG = "mail.folder"
DRIVER_TAG = "mail.driver"


def driver(pid: int | None = None) -> str:
    """This process, or another of this machine: host, process and when it began; empty if there is no such process."""
    import psutil

    try:
        process = psutil.Process(pid or os.getpid())
        return f"{socket.gethostname()} {process.pid} {process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return ""


def is_dead(written: str) -> bool:
    """Whether the process that a tag names ran on this machine and is no more."""
    host, _, rest = written.partition(" ")
    pid = rest.partition(" ")[0]
    return host == socket.gethostname() and pid.isdigit() and driver(int(pid)) != written


def end_dead_runs(client: Any, experiment: str, name: str, folder: str, but: str) -> list[str]:
    """Marks as KILLED what is RUNNING under a name and folder and has no living process; returns the runs' ids.

    Args:
        but: the run that goes on.
    """
    ended = []
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000):
        tags = run.data.tags
        same = run.info.run_name == name and tags.get(FOLDER_TAG) == folder and run.info.run_id != but
        if same and is_dead(tags.get(DRIVER_TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")
            ended.append(run.info.run_id)
    return ended
