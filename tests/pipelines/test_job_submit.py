"""`ray job submit ... -- python -m pipelines STAGE` against a real `ray start --head` with token authentication."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mail.data.mask_table import MaskTable
from pipelines.__main__ import main

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

RAY = str(Path(sys.executable).with_name("ray"))
START_ATTEMPTS = 3
START_SECONDS = 120
JOB_SECONDS = 400


@dataclass(frozen=True)
class Head:
    """A running head node: address of its jobs API, and the environment of someone who has the token."""

    address: str
    environment: dict[str, str]

    def submit(self, *stage: str, env_vars: dict[str, str], repository: Path) -> subprocess.CompletedProcess[str]:
        runtime_env = json.dumps({"env_vars": env_vars, "excludes": ["/tests/", "/docs/"]})
        command = [
            RAY,
            "job",
            "submit",
            "--address",
            self.address,
            "--working-dir",
            ".",
            "--runtime-env-json",
            runtime_env,
        ]
        deadline = time.monotonic() + START_SECONDS
        while True:
            result = subprocess.run(
                [*command, "--", "python", "-m", "pipelines", *stage],
                cwd=repository,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=JOB_SECONDS,
                check=False,
            )
            # the node is alive a while before its job agent is; Ray's answer until then is to try again later
            if "No available agent" not in result.stderr or time.monotonic() > deadline:
                return result
            time.sleep(3)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head --block` with a token, in processes of its own, which are ended one by one afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mail-head-", dir="/tmp"))  # short: it holds sockets
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # jobs call `python`
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    process = None
    try:
        for attempt in range(START_ATTEMPTS):
            process, address = start(folder / str(attempt), environment)
            if comes_up(process, address, token.read_text()):
                yield Head(address, environment)
                return
            end(process)
        pytest.fail(f"ray start failed {START_ATTEMPTS} times:\n{(folder / str(attempt) / 'log').read_text()[-3000:]}")
    finally:
        if process is not None:
            end(process)
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen, str]:
    """Starts a head node in a session of its own; its process and the address of its jobs API."""
    folder.mkdir()
    port, dashboard, agent, client = free_ports(4)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    # the job agent's own port is the same for every Ray on a machine; without it, jobs are never taken
    command += [f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={folder / 'ray'}", f"--object-store-memory={300 * 2**20}", "--disable-usage-stats"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    return process, f"http://127.0.0.1:{dashboard}"


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


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data store and a proposer of two training steps, both made without a cluster."""
    folder = tmp_path_factory.mktemp("jobs")
    scenes, store = folder / "scenes", folder / "store"
    assert main(["prepare", "synthetic", "--out", str(store), "--root", str(scenes), "--images", "40"]) == 0
    arguments = ["--instances", str(scenes / "synthetic" / "instances.json"), "--out", str(folder / "proposer")]
    arguments += ["--images", str(scenes / "images" / "train2014"), "--exclude-store", str(store)]
    arguments += ["--steps", "2", "--workers", "0"]
    assert main(["train-proposer", *arguments]) == 0
    return folder


def test_submit_without_the_token_is_refused(head: Head, repository: Path, tmp_path: Path) -> None:
    stranger = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    result = Head(head.address, stranger).submit("models", "list", env_vars={}, repository=repository)
    assert result.returncode != 0
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=30)
    assert refusal.value.code in (401, 403)


def test_precompute_and_train_run_as_submitted_jobs(head: Head, data: Path, repository: Path) -> None:
    env_vars = {"MLFLOW_TRACKING_URI": f"sqlite:///{data / 'mlflow.db'}", "HF_HUB_OFFLINE": "1"}
    store, masks, run = str(data / "store"), str(data / "masks"), data / "run"

    computed = head.submit(
        *("precompute", "--data", store, "--proposer", str(data / "proposer"), "--masks", masks),
        env_vars=env_vars,
        repository=repository,
    )
    assert computed.returncode == 0, computed.stdout + computed.stderr
    assert len(MaskTable(masks).snapshot()) == 40

    trained = head.submit(
        *("train", "--preset", "tiny", "--data", store, "--masks", masks, "--name", "job", "--out", str(run)),
        *("--steps", "2", "--global-batch-size", "4", "--validation-expressions", "0", "--no-register"),
        env_vars=env_vars,
        repository=repository,
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "trained 2 steps" in trained.stdout
    assert (run / "model" / "model.safetensors").exists()


def test_a_stage_that_fails_fails_the_job_with_its_one_line(head: Head, data: Path, repository: Path) -> None:
    arguments = ["--proposer", str(data / "proposer"), "--masks", str(data / "masks")]
    result = head.submit("precompute", "--data", str(data / "nothing"), *arguments, env_vars={}, repository=repository)
    assert result.returncode != 0
    assert "is not a data store" in result.stdout
    assert "Traceback" not in result.stdout


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held open until all are found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


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
