"""Which checkpoints stay, and what they remember; `test_step.py` shows that they resume exactly."""

import json
import os
from pathlib import Path

from mail.training.checkpoint import ASIDE, MANIFEST, Saved, find_best, find_latest, list_checkpoints, prune
from mail.training.curves import Curves
from mail.training.going_on import find_complete


def make(folder: Path, step: int, oiou: float | None = None, whole: bool = True, start: int = 1) -> Path:
    """A checkpoint as far as its manifest goes."""
    path = folder / f"start-{start:03d}" / f"step-{step:07d}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"w" * 10)
    scores = None if oiou is None else {"oIoU": oiou}
    files = {"model.safetensors": 10 if whole else 11}
    (path / MANIFEST).write_text(json.dumps({"step": step, "validation": scores, "files": files}))
    return path


def steps(folder: Path) -> list[int]:
    return [c.step for c in list_checkpoints(str(folder))]


def test_the_newest_and_the_best_stay(tmp_path):
    for step, oiou in ((1, 0.2), (2, 0.9), (3, 0.3), (4, 0.4), (5, 0.5)):
        make(tmp_path, step, oiou, start=1 + step // 3)
    best = find_best(str(tmp_path))
    prune(str(tmp_path), 2)
    assert steps(tmp_path) == [5, 4, 2]
    assert find_best(str(tmp_path)) == best == Saved(str(tmp_path / "start-001" / "step-0000002"), 2, 0.9)


def test_what_stays_is_on_its_disk_before_anything_goes(tmp_path, monkeypatch):
    old, new = make(tmp_path, 1), make(tmp_path, 2)
    fsync, flushed = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda n: (flushed.append((os.fstat(n).st_ino, old.exists())), fsync(n))[1])
    prune(str(tmp_path), 1)
    assert not old.exists()
    assert {(path.stat().st_ino, True) for path in (new, *new.iterdir())} <= set(flushed)


def test_of_equals_the_later_one_is_the_best(tmp_path):
    make(tmp_path, 1, 0.5), make(tmp_path, 2, 0.5), make(tmp_path, 3)
    found = find_best(str(tmp_path))
    assert found is not None
    assert found.step == 2


def test_the_last_complete_one_is_never_deleted(tmp_path):
    make(tmp_path, 1), make(tmp_path, 2, whole=False), make(tmp_path, 3, whole=False)
    assert prune(str(tmp_path), 0) == []
    newest = find_latest(str(tmp_path))
    assert newest is not None
    assert newest.step == 1


def test_what_may_still_be_on_its_way_is_left_alone(tmp_path):
    old = make(tmp_path, 1, whole=False)
    make(tmp_path, 2)
    on_its_way = make(tmp_path, 3, whole=False)
    make(tmp_path, 4)
    prune(str(tmp_path), 2)
    assert not old.exists()
    assert on_its_way.exists()


def test_a_damaged_manifest_is_named_and_put_aside(tmp_path):
    make(tmp_path, 1)
    cut, other, on_its_way = (make(tmp_path, step) for step in (2, 3, 4))
    (cut / MANIFEST).write_bytes((cut / MANIFEST).read_bytes()[:20])
    (other / "model.safetensors").write_bytes(b"w")
    (on_its_way / MANIFEST).unlink()
    said: list[str] = []
    found = find_complete(str(tmp_path), said.append)
    assert found is not None
    assert found.step == 1
    assert said == [
        f"{on_its_way} is no whole checkpoint: passed over",
        f"checkpoint {other} is damaged (model.safetensors has 1 bytes instead of 10): put aside",
        f"checkpoint {cut} is damaged (checkpoint.json is not what was written): put aside",
    ]
    assert (cut / ASIDE).exists()
    said.clear()
    assert find_complete(str(tmp_path), said.append) == found
    assert said == [f"{on_its_way} is no whole checkpoint: passed over"]


def test_what_a_deletion_left_behind_is_no_checkpoint(tmp_path):
    path = make(tmp_path, 2)
    (path / MANIFEST).unlink()  # it goes first
    make(tmp_path, 1)
    assert steps(tmp_path) == [1]


def test_curves_come_back_as_they_were(tmp_path):
    curves = Curves()
    curves.add("train", [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 1e-300}])
    curves.add("validation", [{"step": 2, "oIoU": 0.5}])
    curves.add("train", [{"step": 3, "loss": 2.0}])
    curves.save(tmp_path)
    again = dict(Curves.load(tmp_path).by_kind())
    assert again == dict(curves.by_kind())
    assert [r["step"] for r in again["train"]] == [1, 2, 3]


def test_a_checkpoint_without_curves_has_none(tmp_path):
    assert list(Curves.load(tmp_path).by_kind()) == list(Curves.load(None).by_kind()) == []
