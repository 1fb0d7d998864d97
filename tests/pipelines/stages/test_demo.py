"""The demo deletes what it makes, and nothing else."""

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
