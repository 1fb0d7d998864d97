"""A Ray cluster of this one machine that takes jobs: `make ray-up` starts it, `make ray-down` ends it and nothing else.

    python cluster/local_head.py up      prints how to submit to it
    python cluster/local_head.py down

The token and what is known of the running head are in $XDG_CONFIG_HOME/mail-ris (~/.config/mail-ris), outside of the
checkout, which jobs upload. All ports are free ones: a second Ray on the machine would take Ray's fixed ones, and jobs
would end in "No available agent".
"""

import contextlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines import ending

START_ATTEMPTS = 5
START_SECONDS = 120
JOB_STOP_SECONDS = 45  # a job that is stopped may save a checkpoint; Ray's own 3 are too few
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Head:
    """A head node that was started: its process, and where it listens."""

    process: psutil.Process
    address: str
    agent: str
    folder: Path
    token: Path

    @property
    def variables(self) -> dict[str, str]:
        """What whoever submits jobs needs in the environment."""
        token = str(self.token)
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token, "RAY_API_SERVER_ADDRESS": self.address}

    def comes_up(self) -> bool:
        """Waits until it takes jobs; False if it ends before (Ray gives its processes 30 s, whatever else runs)."""
        request = urllib.request.Request(f"{self.address}/api/v0/nodes")
        request.add_header("Authorization", f"Bearer {self.token.read_text()}")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + START_SECONDS
        while self.process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline and not ending.requested():
            # the node is alive a while before its agent is, which starts jobs
            with contextlib.suppress(OSError), direct.open(request, timeout=20) as nodes:
                if b"ALIVE" in nodes.read():
                    direct.open(f"{self.agent}/api/local_raylet_healthz", timeout=20).close()
                    return True
            time.sleep(1)
        return False

    def end(self) -> None:
        """Ends the head and all that it started, and no other Ray of the machine (`ray stop` ends every one)."""
        with contextlib.suppress(psutil.NoSuchProcess):
            started = self.process.children(recursive=True)
            self.process.terminate()  # `ray start --block` ends what it has started
            psutil.wait_procs([self.process], timeout=10)
            for process in [*started, self.process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(token: Path, *options: str) -> Head:
    """Starts a head in a session of its own, with a token that is made if there is none.

    Args:
        options: of `ray start`, besides.

    Raises:
        RuntimeError: it did not come up, with the last line that Ray said.
    """
    if not token.exists():
        token.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    for _ in range(START_ATTEMPTS):
        head = _start(token, options)
        try:
            if head.comes_up():
                return head
        except BaseException:
            head.end()
            raise
        said = (head.folder / "log").read_text().split("\n")
        head.end()
        ending.check()
    reason = next((line for line in reversed(said) if line.strip()), "nothing")
    raise RuntimeError(f"Ray did not start in {START_ATTEMPTS} tries, and said at last: {reason}")


def _start(token: Path, options: tuple[str, ...]) -> Head:
    folder = Path(tempfile.mkdtemp(prefix="mail-head-", dir="/tmp"))  # short: it holds sockets
    # Ray gives a shell the path of its Python as it is: one with a space would be two words
    (folder / "venv").symlink_to(BIN.parent)
    executables = folder / "venv" / "bin"
    port, dashboard, agent, client = free_ports(4)
    command = [str(executables / "python"), "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment |= {ending.JOB_PATIENCE: str(JOB_STOP_SECONDS)}
    local = "http://127.0.0.1"
    # what Ray Train has watch over its controller looks for "the" Ray of the machine, and ends in a trace where two run
    environment["RAY_API_SERVER_ADDRESS"] = f"{local}:{dashboard}"
    environment["PATH"] = f"{executables}{os.pathsep}{os.environ['PATH']}"  # jobs call `python`
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [*command, *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Head(psutil.Process(process.pid), f"{local}:{dashboard}", f"{local}:{agent}", folder, token)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held open until all are found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _settings() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mail-ris"


def _running(record: Path) -> Head | None:
    """The head of an earlier `up`, if it still runs; a number that is another process's by now does not count."""
    if not record.exists():
        return None
    known = json.loads(record.read_text())
    try:
        process = psutil.Process(known["pid"])
        same = process.create_time() == known["created"]
    except psutil.NoSuchProcess:
        return None
    folder, token = Path(known["folder"]), Path(known["token"])
    return Head(process, known["address"], known["agent"], folder, token) if same else None


def up() -> None:
    """Starts the head, unless it runs, and says how to reach and end it."""
    settings = _settings()
    record, script = settings / "ray-head.json", settings / "ray.env"
    head = _running(record)
    if head is None:
        try:
            with ending.postponed():  # a head that is started is ended again, or recorded
                head = start(settings / "ray-token")
                known = {"pid": head.process.pid, "created": head.process.create_time(), "address": head.address}
                known |= {"agent": head.agent, "folder": str(head.folder), "token": str(head.token)}
                record.write_text(json.dumps(known))
                script.write_text("".join(f"export {k}={shlex.quote(v)}\n" for k, v in head.variables.items()))
        except ending.EndRequested:
            _end(record)
            raise
    print(f"Ray takes jobs at {head.address} (its logs: {head.folder}/ray/session_latest/logs)")
    print(f"this shell can submit them after:  . {shlex.quote(str(script))}")
    print("its end:                           make ray-down")


def down() -> None:
    """Ends the head of `up`."""
    if (head := _end(_settings() / "ray-head.json")) is None:
        print("no Ray of `make ray-up` is running")
    else:
        print(f"ended the Ray at {head.address}")


def _end(record: Path) -> Head | None:
    """Ends the recorded head, if it runs; returns it."""
    if (head := _running(record)) is not None:
        head.end()
        record.unlink()
        record.with_name("ray.env").unlink(missing_ok=True)
    return head


def main(arguments: list[str]) -> int:
    """0 if it did what it says, 2 after a line about why not, 130, 143 or 129 when asked to end."""
    if arguments not in (["up"], ["down"]):
        print("usage: python cluster/local_head.py up|down", file=sys.stderr)
        return 2
    try:
        with ending.owned():
            up() if arguments == ["up"] else down()
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ending.EndRequested as end:
        print(f"ended by {end.signal.name}: nothing of it is left running", file=sys.stderr)
        return 128 + end.signal
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
