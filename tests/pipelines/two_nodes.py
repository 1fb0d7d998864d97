"""A cluster of `ray start` nodes on this machine, with token authentication; its processes can be killed one by one."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.local_head import free_ports

RAY = str(Path(sys.executable).with_name("ray"))
START_SECONDS = 120


@dataclass
class Nodes:
    """A head without work of its own, and worker nodes that are started and killed.

    Attributes:
        gcs, dashboard: addresses. environment: of someone who has the token. nodes: running worker nodes by name.
    """

    folder: Path
    gcs: str
    dashboard: str
    environment: dict[str, str]
    nodes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, name: str, cpus: int = 2) -> None:
        """Starts a worker node and waits until the cluster counts it."""
        command = [
            RAY,
            "start",
            "--block",
            f"--address={self.gcs}",
            f"--num-cpus={cpus}",
            "--node-ip-address=127.0.0.1",
        ]
        # the job agent's own port is the same for every Ray on a machine; without it, jobs are never taken
        command += [f"--dashboard-agent-listen-port={free_ports(1)[0]}"]
        command += [f"--labels=name={name}", f"--object-store-memory={200 * 2**20}", "--disable-usage-stats"]
        with open(self.folder / f"{name}.log", "w") as log:
            self.nodes[name] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(lambda: name in self.alive(), 120, f"node {name} to come up")

    def alive(self) -> dict[str, str]:
        """Ids of the worker nodes that the cluster holds for alive, by name."""
        rows = self._get("/api/v0/nodes?detail=true")["data"]["result"]["result"]
        return {r["labels"]["name"]: r["node_id"] for r in rows if r["state"] == "ALIVE" and "name" in r["labels"]}

    def kill_node(self, name: str) -> None:
        """SIGKILL to everything of a node at once, its raylet first."""
        process = self.nodes.pop(name)
        pids = [process.pid, *session_of(process.pid)]
        for pid in sorted(pids, key=lambda p: b"raylet" not in command_line(p)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def kill_worker(self, name: str) -> None:
        """SIGKILL to the train worker on a node."""
        workers = [p for p in session_of(self.nodes[name].pid) if b"RayTrainWorker" in command_line(p)]
        assert workers, [command_line(p)[:60] for p in session_of(self.nodes[name].pid)]
        os.kill(workers[0], signal.SIGKILL)

    def submit(self, *stage: str, env_vars: dict[str, str], repository: Path, log: Path) -> subprocess.Popen:
        """`ray job submit ... -- python -m pipelines STAGE`; its output goes to a file."""
        self._takes_jobs()
        runtime_env = json.dumps({"env_vars": env_vars, "excludes": ["/tests/", "/docs/"]})
        command = [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--runtime-env-json"]
        command += [runtime_env, "--", "python", "-m", "pipelines", *stage]
        with open(log, "a") as file:
            return subprocess.Popen(command, cwd=repository, env=self.environment, stdout=file, stderr=file)

    def _takes_jobs(self) -> None:
        """Waits for the job agent, which comes up a while after its node is alive."""
        command = [RAY, "job", "submit", "--address", self.dashboard, "--", "true"]
        deadline = time.monotonic() + 120
        while True:
            tried = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
            )
            if "No available agent" not in tried.stderr or time.monotonic() > deadline:
                return
            time.sleep(3)

    def kill_driver(self, marker: str) -> None:
        """SIGKILL to the job's own process, which has `marker` among its arguments."""
        drivers = []
        for entry in Path("/proc").glob("[0-9]*"):
            line = command_line(int(entry.name)).split(b"\0")
            if marker.encode() in line and b"pipelines" in line and b"submit" not in line:
                drivers.append(int(entry.name))
        assert len(drivers) >= 1, "the job has no process"
        for pid in drivers:
            os.kill(pid, signal.SIGKILL)

    def drain(self, name: str, seconds: int) -> None:
        """Tells a node that it will be preempted, as a cloud does with spot machines."""
        command = [RAY, "drain-node", "--address", self.gcs, "--node-id", self.alive()[name]]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command += ["--deadline-remaining-seconds", str(seconds)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True, timeout=60)

    def _get(self, path: str) -> Any:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)


@contextlib.contextmanager
def nodes(environment: dict[str, str]) -> Iterator[Nodes]:
    """A head node that takes no work. `environment`: what all processes of the cluster get besides the token."""
    folder = Path(tempfile.mkdtemp(prefix="mail-nodes-", dir="/tmp"))  # short: it holds sockets
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        **environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
    }
    port, dashboard, client, agent = free_ports(4)
    command = [RAY, "start", "--head", "--block", "--num-cpus=0", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={folder / 'ray'}", f"--object-store-memory={200 * 2**20}", "--disable-usage-stats"]
    with open(folder / "head.log", "w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    cluster = Nodes(folder, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment)
    try:
        assert comes_up(head, cluster.dashboard, token.read_text()), (folder / "head.log").read_text()[-3000:]
        yield cluster
    finally:
        for process in [*cluster.nodes.values(), head]:
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(holds: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, KeyError):
            if holds():
                return
        time.sleep(0.5)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def comes_up(process: subprocess.Popen, address: str, token: str) -> bool:
    """Waits until the node is alive; False if it ends before (Ray gives its processes 30 s, whatever else runs)."""
    request = urllib.request.Request(f"{address}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=20) as response:
            if b"ALIVE" in response.read():
                return True
        time.sleep(1)
    return False


def end(process: subprocess.Popen) -> None:
    """Ends a head node and all of its session, and nothing else (`ray stop` would end every Ray there is)."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()  # `ray start --block` ends what it has started
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for pid in [*session_of(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def session_of(leader: int) -> list[int]:
    """Ids of the processes of a session (Linux; elsewhere none are found)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()  # after the name: state, parent, group, session, ...
            if int(fields[3]) == leader:
                found.append(int(stat.parent.name))
    return found
