"""What all tests share: no downloads, one thread a process, and one Ray cluster for the whole session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before torch, transformers or Ray are imported; Ray's workers inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("RAY_ADDRESS", None)  # the tests bring their own cluster
os.environ.pop("MLFLOW_TRACKING_URI", None)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _tracking_store_of_its_own() -> Iterator[None]:
    """`mlflow.set_tracking_uri` leaves its address in the environment, where the next test would find it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """A local Ray with 2 CPUs, shared by the tests of a file (starting it takes 8 s), so that each has all CPUs."""
    from pipelines.cluster_session.session import connect

    with connect(num_cpus=2):
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY
