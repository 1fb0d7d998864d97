"""MLflow's own figures of the machines that a training runs on: CPU, memory, disk, network and, with NVIDIA's, GPUs.

Recorded if the user switches them on, as for any other run: `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true`, every
`MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` seconds (10). The run shows them under "System metrics", each machine's apart.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

from mail import addresses
from pipelines.registry.client import connect, tracking_uri

RETRY_SECONDS = 10.0


@contextlib.contextmanager
def system_metrics(run_id: str, node: str | None = None) -> Iterator[None]:
    """Records this machine's figures in a running run, from a thread that never raises and that nobody waits for.

    Args:
        node: the machine's name among several: its figures are called `system/NODE/...`.
    """
    ended = threading.Event()
    # as MLflow reads it, without the seconds that importing it takes
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("true", "1"):
        threading.Thread(target=_record, args=(run_id, node, ended), name="system metrics", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _record(run_id: str, node: str | None, ended: threading.Event) -> None:
    database = addresses.sqlite_path(tracking_uri())
    if database is not None and not database.exists():
        return  # it is a file of another machine
    while not ended.is_set():
        # MLflow's monitor comes back when its server is away, or the run is over (or not yet marked as running again)
        with contextlib.suppress(Exception):
            connect(wait=False)
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            SystemMetricsMonitor(run_id, resume_logging=True, node_id=node).monitor()
        ended.wait(RETRY_SECONDS)
