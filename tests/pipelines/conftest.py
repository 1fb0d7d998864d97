"""One Ray for all files, and stages in processes of their own, with a folder and an MLflow of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.boxes import Boxes, make_boxes
from tests.pipelines.killing import Run


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[None]:
    """A local Ray with 2 CPUs, shared by the files of a test process, one after another: starting it takes 8 s."""
    from pipelines.cluster_session.session import connect

    with connect(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Starts a stage, or another program; what it leaves is ended with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs: list[Run] = []

    def start(*arguments: str, **options: object) -> Run:
        runs.append(Run(*arguments, **options))  # type: ignore[arg-type]  # those of Run
        return runs[-1]

    yield start
    for run in runs:
        run.close()
