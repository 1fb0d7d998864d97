"""Which version a replica serves when it starts while the champion does not load, and what becomes of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.registry.champions import Champions
from pipelines.registry.models import CHAMPION, Version, download
from pipelines.serving.config import ServingConfig
from pipelines.serving.following import Following
from tests.boxes import Boxes
from tests.registry import make_registered

NAME = "followed"


@pytest.fixture
def versions(
    tmp_path: Path, boxes: Boxes, monkeypatch: pytest.MonkeyPatch, put_mlflow: Callable[[Path], None]
) -> list[Version]:
    """Three champions, one after the other."""
    put_mlflow(tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    made = [make_registered(tmp_path / str(seed), boxes, NAME, seed=seed, bundled=seed < 1) for seed in range(3)]
    champions, before = Champions(NAME), ()
    for version in made:
        assert champions.append(champions.current(), version.version, before)
        before = (*before, version.version)
    return made


def damage(version: Version) -> Callable[[], None]:
    """Cuts the end of its weights off; what comes back mends it."""
    weights = download(version) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])

    def mend() -> None:
        weights.write_bytes(whole)

    return mend


def test_a_replica_that_starts_at_a_damaged_champion_takes_the_last_one_that_loads(
    versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    mend = damage(versions[2])
    damage(versions[1])
    following = Following(ServingConfig(model=f"models:/{NAME}@{CHAMPION}", device="cpu"))
    assert following.look()
    assert following.current is not None
    assert following.current.model.version == "1"
    assert following.trouble.startswith("version 3 was not taken: ")
    mend()
    assert not following.look(), "it is tried again only after a while"
    monkeypatch.setattr("pipelines.serving.following.AGAIN_AFTER", 0.0)
    assert following.look()
    assert (following.current.model.version, following.trouble) == ("3", "")


def test_no_other_version_stands_in_for_one_that_was_named(versions: list[Version]) -> None:
    damage(versions[2])
    following = Following(ServingConfig(model=f"models:/{NAME}/3", device="cpu"))
    assert not following.look()
    assert following.current is None
    assert following.trouble.startswith("version 3 was not taken: ")
