"""The driver's sink: rows become visible in time, in files of bounded size, and the commits say how long they took."""

from pathlib import Path

import pytest

from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import seconds_per_image
from pipelines.precomputing.sink import MaskSink
from tests.mask_rows import ids, mask_rows

PROPOSER = {"id": "p-1"}


class Clock:
    """Time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("pipelines.precomputing.sink.time.monotonic", clock)
    return clock


def sink(folder: Path, every: float = 60.0) -> MaskSink:
    table = MaskTable(folder)
    return MaskSink(table, PROPOSER, table.head(), images=100, every=every)


def test_first_commits_come_soon_and_later_ones_as_often_as_asked_for(tmp_path: Path, clock: Clock) -> None:
    rows = sink(tmp_path, every=30)
    commits = []
    for number in range(120):
        rows.add(mask_rows(ids(number)))
        if rows.state.version > len(commits):
            commits.append(clock.now - 100)
        clock.now += 1
    assert commits == [5, 15, 35, 65, 95]  # 5, 10, 20 seconds after the one before, then every 30
    assert len(rows.table.snapshot()) == 96
    rows.flush()
    assert len(rows.table.snapshot()) == 120


def test_a_file_is_written_when_enough_rows_wait_but_committed_with_the_others(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.precomputing.sink.FILE_BYTES", 3 * mask_rows(ids(1)).nbytes)
    rows = sink(tmp_path)
    for number in range(7):
        rows.add(mask_rows(ids(number)))
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    assert rows.table.head().version == 0
    rows.flush()
    state = MaskTable(tmp_path).head()
    assert (state.version, sorted(f.rows for f in state.files.values())) == (1, [1, 3, 3])
    rows.flush()
    assert MaskTable(tmp_path).head() == state


def test_commits_say_how_long_images_took_once_the_actors_were_up(tmp_path: Path, clock: Clock) -> None:
    rows = sink(tmp_path)
    clock.now += 40  # the actors start
    rows.add(mask_rows(ids(*range(10))))
    for start in (10, 14):
        clock.now += 2
        rows.add(mask_rows(ids(*range(start, start + 4))))
    rows.flush()
    assert seconds_per_image(rows.table, "p-1") == pytest.approx(4 / 8)
    assert rows.images_per_second == pytest.approx(2.0)


def test_the_rate_of_a_set_so_small_that_all_came_back_at_once_is_a_true_one(tmp_path: Path, clock: Clock) -> None:
    rows = sink(tmp_path)
    clock.now += 5
    rows.add(mask_rows(ids(*range(10))))
    rows.flush()
    assert rows.images_per_second == pytest.approx(2.0)
