"""Whether a process that left its name somewhere still lives: one rule for claims on folders and for MLflow's runs."""

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

SAME_START = 2.0  # seconds by which two readings of one process's start may differ


def identity(pid: int | None = None) -> dict[str, Any]:
    """What tells this process, or another of this machine, from all others; ready for JSON.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    process = psutil.Process(pid)
    host = socket.gethostname()
    return {"host": host, "process": process.pid, "started": process.create_time(), "seen": _world()}


def lives(owner: Mapping[str, Any]) -> bool | None:
    """Whether the process of an `identity` is a living one of this machine; None if that cannot be told."""
    if not owner or owner.get("seen") is None or owner["seen"] != _world():
        return None
    try:
        process = psutil.Process(owner["process"])
        if abs(process.create_time() - owner["started"]) > SAME_START or process.status() == psutil.STATUS_ZOMBIE:
            return False
        return None if process.status() == psutil.STATUS_STOPPED else True
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None


def _world() -> str | None:
    """Where a process's number means the same process: this start of this machine, and this container in it."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return None
