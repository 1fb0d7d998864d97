"""What all tests share: no downloads, one thread a process, and MLflow's tables made once."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Set before torch, transformers or Ray are imported; Ray's workers inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("RAY_ADDRESS", None)  # the tests bring their own cluster
os.environ.pop("MLFLOW_TRACKING_URI", None)

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders with the longest files come first: the last of those would else be left to one worker at the end."""
    first = [REPOSITORY / "tests" / folder for folder in ("benchmarks", "pipelines")]
    items.sort(key=lambda item: not any(item.path.is_relative_to(folder) for folder in first))


@pytest.fixture(autouse=True)
def _tracking_store_of_its_own() -> Iterator[None]:
    """`mlflow.set_tracking_uri` leaves its address in the environment, where the next test would find it."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def put_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Writes MLflow's tables, without a run, to a file: MLflow takes 6 s to make them, 5 of them for the disk."""
    from pipelines.registry.client import connect

    made = tmp_path_factory.mktemp("empty") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made}")
        connect()

    def put(path: Path) -> None:
        shutil.copy(made, path)

    return put


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY
