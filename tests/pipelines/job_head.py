"""A real `ray start --head` with token authentication, and jobs that are submitted to it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster import local_head

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A running head node: address of its jobs API, and the environment of someone who has the token."""

    address: str
    environment: dict[str, str]
    patience: float = 400.0  # seconds that a job may take

    def submit(self, *command: str, env_vars: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
        options = [
            "--address",
            self.address,
            "--working-dir",
            ".",
            "--runtime-env-json",
            json.dumps({"env_vars": env_vars}),
        ]
        return subprocess.run(
            [RAY, "job", "submit", *options, "--", *command],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.patience,
            check=False,
        )

    def stage(self, *stage: str, env_vars: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
        return self.submit("python", "-m", "pipelines", *stage, env_vars=env_vars, folder=folder)


@contextlib.contextmanager
def running_head(folder: Path) -> Iterator[Head]:
    """What `make ray-up` starts, on two CPUs; `folder` is for its token."""
    started = local_head.start(folder / "ray-token", "--num-cpus=2", f"--object-store-memory={300 * 2**20}")
    try:
        others = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        yield Head(started.address, others | started.variables)
    finally:
        started.end()
