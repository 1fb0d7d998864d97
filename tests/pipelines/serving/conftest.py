"""A service in this process, around a real model that was never trained."""

from pathlib import Path

import pytest

from tests.mail.test_inference import make_model
from tests.registry import make_proposer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MODEL, its proposer bundled."""
    model = make_model(tmp_path_factory.mktemp("run") / "model")
    make_proposer(model / "proposer")
    return model
