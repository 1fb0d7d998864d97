"""The one way in which a stage gets a Ray cluster: joins the running one, or starts a quiet local one.

    with connect():
        ...

joins the cluster that `RAY_ADDRESS` names (Ray sets it inside a submitted job; its forms are in `address.py`), does
nothing where this process already is connected, and otherwise starts a local Ray whose processes end with this one. The
local one has no dashboard and no open job port, its own access token, a bounded object store, and keeps its chatter in
log files; `MAIL_RAY_LOGS=1` shows it on the terminal.
"""

import atexit
import contextlib
import logging
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mail.errors import UserError
from pipelines import ending
from pipelines.cluster_session.address import named, not_reached, to_join
from pipelines.cluster_session.private_folder import PrivateFolder

# Ray reads these when it is imported, so they are set when a stage module is, before Ray can have been.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # `uv run mail-ris` must not rebuild a venv per worker
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # leaves CUDA_VISIBLE_DEVICES alone; else it warns
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "180")  # its API server starts even without a dashboard
# A loading task that waits for those it feeds would find its process ended after 1 s, and start another: 3 s of a core
# and 150 MiB.
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
if os.environ.get("MAIL_RAY_LOGS") != "1":
    # Ray's C++ part writes to the terminal, past every Python logger, also of what Ray Data does in every run (an actor
    # whose arguments lie in the object store)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

METRICS = "RAY_enable_metrics_collection"
OBJECT_STORE_BYTES = 2**30  # enough for the blocks in flight here; Ray's default, 30 % of memory, starves a laptop
START_ATTEMPTS = 5
JOIN_ATTEMPTS = "1"  # which waits 40 s for a cluster that is busy; of Ray's own 20 nothing is heard for minutes
LARGE_MACHINE_BYTES = 64 * 2**30  # from here on Ray's own default is fine


@contextlib.contextmanager
def connect(num_cpus: int | None = None, metrics: bool = True) -> Iterator[None]:
    """Connects this process to Ray. Leaving the block ends the cluster if, and only if, this started it.

    Args:
        num_cpus: logical CPUs of a local cluster, where one is started; all of the machine's by default, at least 2
            (a pool of actors on the only CPU would starve the tasks that feed it).
        metrics: a local cluster's processes offer theirs. Without a reader, Ray Data's statistics actor grows by some
            8 to 11 MiB a minute with them.

    Raises:
        UserError: `RAY_ADDRESS` names a cluster that cannot be reached, or refuses our token.
    """
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
    elif address := to_join():
        _join(address)
        yield
    else:
        folder = _start_local(num_cpus, metrics)
        unexpected = ended = False
        try:
            yield
        except ending.EndRequested:
            # `ending.leave` ends Ray's processes; to shut Ray down while a thread waits for it takes long, or fails
            ended = True
            ending.remove_at_end(folder.path)
            raise
        except BaseException as error:
            if unexpected := not isinstance(error, UserError | KeyboardInterrupt | SystemExit):
                print(f"Ray's logs are in {folder.path} (MAIL_RAY_LOGS=1 shows and keeps more)", file=sys.stderr)
            raise
        finally:
            if not ended:
                atexit.unregister(_end_local)
                _end_local(folder, keep_logs=unexpected)


def _join(address: str) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    try:
        with contextlib.ExitStack() as stack:
            if os.environ.get("MAIL_RAY_LOGS") != "1":
                stack.enter_context(_stderr_to(Path(os.devnull)))  # what is wrong is said once, in one line
            stack.enter_context(environment(RAY_gcs_server_port_wait_time_s=JOIN_ATTEMPTS))
            stack.enter_context(ending.lent())
            ray.init(address, logging_level=logging.WARNING)
    except (AuthenticationError, ConnectionError, RuntimeError) as error:  # RuntimeError: of another version
        raise not_reached(error) from error
    _quiet_data()


def _start_local(num_cpus: int | None, metrics: bool) -> PrivateFolder:
    """Starts it; returns the folder of its sockets and logs."""
    # Workers inherit the environment of the process that starts them. They must find `pipelines` and `mail` also where
    # those are imported from a checkout, without a runtime_env, which would give up the workers that Ray prestarts.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    # torch's threads must not spin while they wait: trainer, input tasks and Ray itself share the same few cores
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for attempt in range(1, START_ATTEMPTS + 1):
        folder = PrivateFolder()
        try:
            _start_in(folder.path, num_cpus or _usable_cpus(), metrics)
            break
        except BaseException as error:
            # Ray gives its processes fixed 15 to 30 s to come up, which a busy machine may not grant them
            last = attempt == START_ATTEMPTS or "timed out" not in str(error)
            _end_local(folder, keep_logs=last and isinstance(error, Exception))
            if last and isinstance(error, Exception):
                why = (str(error).splitlines() or [type(error).__name__])[0]
                raise UserError(f"Ray did not start on this machine: {why[:300]} (its logs: {folder.path})") from error
            if last:
                raise
    atexit.register(_end_local, folder)
    return folder


def _end_local(folder: PrivateFolder, keep_logs: bool = False) -> None:
    import ray

    with ending.postponed():
        ending.in_thread(ray.shutdown, pointless=lambda: False)
        folder.close(keep=keep_logs)


def _start_in(folder: Path, num_cpus: int, metrics: bool) -> None:
    import ray

    verbose = os.environ.get("MAIL_RAY_LOGS") == "1"
    _use_private_token()
    settings: dict[str, Any] = {
        "address": "local",  # never some other cluster that happens to run here
        "num_cpus": num_cpus,
        "include_dashboard": False,
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
    }
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < LARGE_MACHINE_BYTES:
        settings["object_store_memory"] = OBJECT_STORE_BYTES
    if shlex.quote(sys.executable) != sys.executable:
        # Ray gives it to a shell as it is: of a folder with a space no worker with variables of its own would start
        settings["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
    with contextlib.ExitStack() as stack:
        if not verbose:
            stack.enter_context(_stderr_to(folder / "start.log"))
        # what is started now inherits these, and nothing that is started later
        stack.enter_context(environment(RAY_TMPDIR=str(folder)))
        if not metrics and METRICS not in os.environ:
            stack.enter_context(environment(**{METRICS: "0"}))
        try:
            # its processes inherit what is blocked: a terminal that goes asks this process to end, not them
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            with ending.lent():
                ray.init(**settings)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    if not verbose:
        _quiet_data()


@contextlib.contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Also what the C++ part of Ray writes: while it starts, it tells the terminal that it will be quiet."""
    sys.stderr.flush()
    terminal = os.dup(2)
    try:
        with open(path, "ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for the length of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def local_cpus() -> int | None:
    """CPUs of the Ray that `connect` started here, or would; None where it joins another one."""
    import ray

    if named():
        return None
    return int(ray.cluster_resources()["CPU"]) if ray.is_initialized() else _usable_cpus()


def _usable_cpus() -> int:
    """CPUs that this process may run on, within the limit of its container (cgroup v2), if it has one; at least 2.

    A pool of actors on the only CPU would starve the tasks that feed it.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max 100000": no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, int(quota) // int(period))
    return max(2, cpus)


def _use_private_token() -> None:
    """Gives the local clusters a token of this process, so that neither other users nor other clusters' tokens matter.

    One for all that it starts one after another, for Ray keeps what it has read. Ray demands a token of its own accord
    where `RAY_AUTH_MODE` is not set when it is imported.
    """
    if not any(name.startswith("RAY_AUTH_") for name in os.environ):  # else whoever set it has arranged for a token
        folder = PrivateFolder()
        atexit.register(folder.close)
        ending.remove_at_end(folder.path)
        token = folder.path / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)


def _quiet_data() -> None:
    """No progress bars and no start-up notes of Ray Data: stages say themselves how far they are."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its console; its log file goes on
            handler.addFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING and not str(record.msg).startswith("Progress bars disabled")
