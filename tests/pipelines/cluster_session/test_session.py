"""The local Ray of a stage: one after another in a process, each only for those who have the token."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

TWO_CLUSTERS = """
import os, subprocess, sys
import ray
from pipelines.cluster_session.session import connect

for last in (False, True):
    with connect(num_cpus=1):
        assert ray.get(ray.remote(lambda: 7).remote()) == 7
        if not last:
            continue
        address = ray.get_runtime_context().gcs_address
        stranger = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
        program = "from pipelines.cluster_session.session import connect\\nwith connect(): pass"
        stranger["RAY_ADDRESS"] = address
        found = subprocess.run([sys.executable, "-c", program], env=stranger, capture_output=True, text=True)
        assert found.returncode and "the cluster refuses this process's token" in found.stderr, found.stderr
assert not ray.is_initialized()
"""


@pytest.mark.cluster
def test_local_clusters_follow_each_other_and_refuse_strangers(tmp_path: Path, repository: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    clean |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", TWO_CLUSTERS]
    result = subprocess.run(command, cwd=repository, env=clean, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert list(tmp_path.iterdir()) == []  # neither a token in the home folder nor anything in the temporary one
    assert result.stdout + result.stderr == ""


@pytest.mark.soak
@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)"], ids=["ended", "killed"])
def test_the_end_of_one_local_ray_leaves_another_alone(ray_cluster, repository: Path, end: str) -> None:
    program = f"""
import os, ray
from pipelines.cluster_session.session import connect
with connect(num_cpus=2):
    print(ray.get(ray.remote(lambda: os.getpid()).remote(), timeout=60))
    {end}
"""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    other = subprocess.run([sys.executable, "-c", program], cwd=repository, env=clean, capture_output=True, check=False)
    assert int(other.stdout) > 0, other.stderr
    assert other.returncode == (-9 if end else 0)
    assert ray.get([ray.remote(lambda: 7).remote() for _ in range(4)], timeout=60) == [7] * 4
    actor = ray.remote(Counter).remote()  # in a process that is started now
    assert ray.get(actor.next.remote(), timeout=60) == 1


class Counter:
    count = 0

    def next(self) -> int:
        self.count += 1
        return self.count
