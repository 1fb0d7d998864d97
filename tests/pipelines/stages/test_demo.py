"""The demo deletes what it makes, not before there is another one, and nothing else."""

from pathlib import Path

import pytest

from mail.errors import UserError
from pipelines.stages.demo import Demo


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_with_someones_own_store_is_refused(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json").write_text("{}")
    with pytest.raises(UserError, match="holds store, which no demo made: choose another --out"):
        Demo(out=tmp_path, fresh=fresh).run()
    assert (tmp_path / "store" / "store.json").read_text() == "{}"


def test_an_earlier_demo_stays_until_the_fresh_one_is_done(tmp_path: Path) -> None:
    def make(text: str, *names: str) -> None:
        for name in names:
            (tmp_path / name).write_text(text)
        (tmp_path / "store").mkdir()

    def made(folder: str) -> dict[str, str]:
        return {p.name: p.read_text() for p in (tmp_path / folder).iterdir() if p.is_file()}

    demo = Demo(out=tmp_path, fresh=True)
    make("own", "notes.txt")
    (tmp_path / "demo.json").write_text("first")
    (tmp_path / "report.json").write_text("first")
    demo.set_aside()
    assert made(".earlier") == {"demo.json": "first", "report.json": "first"}
    make("killed before its end", "demo.json")
    demo.set_aside()
    assert made(".earlier") == {"demo.json": "first", "report.json": "first"}
    make("second", "demo.json", "report.json")
    (tmp_path / ".earlier.moving").mkdir()  # and killed while it was moved
    (tmp_path / "report.json").replace(tmp_path / ".earlier.moving" / "report.json")
    demo.set_aside()
    assert made(".earlier") == {"demo.json": "second", "report.json": "second"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [".earlier", "notes.txt"]
