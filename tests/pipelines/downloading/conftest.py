"""The servers that files are fetched from."""

from collections.abc import Iterator

import pytest

from pipelines.downloading import transfer
from tests.pipelines.downloading.file_server import FileServer, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The authors' server; pauses between tries are short."""
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.01)
    with serving() as started:
        yield started


@pytest.fixture
def mirror() -> Iterator[FileServer]:
    with serving() as started:
        yield started
