"""The power goes, at every moment of saving, pruning and exporting: a whole checkpoint and a whole model are found.

Names of a folder are on the disk as they were at its last flush, or as at any moment since; a file's content is what it
was at its own last flush, or nothing, or zeros, or what was written since.
"""

import json
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from mail.inventory import check_inventory
from mail.training.checkpoint import MANIFEST, Saved, prune, put_checkpoint
from mail.training.going_on import find_whole
from pipelines.training.run_state import RunState

CALLS = ("fsync", "replace", "rename", "unlink", "remove", "mkdir", "rmdir")
Listing = dict[str, int]  # numbers (inodes) by name


@dataclass
class Moment:
    """What was written when the power went, and how much of it was flushed."""

    promised: dict[str, int]  # what had been reported as complete by then
    history: dict[int, list[Listing]]  # names of each folder at its last flush, and at each moment since
    contents: dict[int, tuple[bytes | None, bytes]]  # of each file: at its last flush, and now


@dataclass
class Disk:
    """A folder whose every change is watched."""

    root: Path
    promised: dict[str, int] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)
    _history: dict[int, list[Listing]] = field(default_factory=dict)
    _flushed: dict[int, bytes] = field(default_factory=dict)
    _held: dict[int, int] = field(
        default_factory=dict
    )  # open files: a number is given again only once its file is gone
    _lock: Any = field(default_factory=threading.RLock)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._watched(name, getattr(os, name)))
        self._look()
        self._history = {number: listings[-1:] for number, listings in self._history.items()}

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **named: Any) -> Any:
            with self._lock:
                self._look()
                if name != "fsync":
                    done = call(*given, **named)
                    self._look()
                    return done
                number = os.fstat(given[0]).st_ino
                if number in self._history:
                    self._history[number] = self._history[number][-1:]
                elif number in self._held:
                    self._flushed[number] = self._content(number)
                return None

        return watched

    def _look(self) -> None:
        contents: dict[int, tuple[bytes | None, bytes]] = {}
        folders = [(self.root, self.root.stat().st_ino)]
        while folders:
            folder, number = folders.pop()
            listing = {}
            for entry in os.scandir(folder):
                found = entry.stat()
                if found.st_ino not in self._held:
                    self._held[found.st_ino] = os.open(entry.path, os.O_RDONLY)
                listing[entry.name] = found.st_ino
                if entry.is_dir():
                    folders.append((Path(entry.path), found.st_ino))
                else:
                    contents[found.st_ino] = self._flushed.get(found.st_ino), self._content(found.st_ino)
            listings = self._history.setdefault(number, [{}])  # a new folder is empty, on the disk
            if listings[-1] != listing:
                listings.append(listing)
        for number, content in self._flushed.items():
            contents.setdefault(number, (content, content))  # names that are lost may lead to what is gone by now
        history = {number: list(listings) for number, listings in self._history.items()}
        moment = Moment(dict(self.promised), history, contents)
        if not self.moments or moment != self.moments[-1]:
            self.moments.append(moment)

    def _content(self, number: int) -> bytes:
        return os.pread(self._held[number], 2**20, 0)

    def after(self, moment: Moment, place: Path, choose: Callable[[str, int], int]) -> None:
        """Makes what is found when the power is back.

        Args:
            choose: of the possible states of something, the last of which is what was there, one.
        """

        def make(number: int, path: Path) -> None:
            path.mkdir()
            listings = moment.history[number]
            for name, other in listings[choose("names", len(listings))].items():
                if other in moment.history:
                    make(other, path / name)
                    continue
                flushed, now = moment.contents.get(other, (None, b""))
                states = [now] if flushed == now else [flushed or b"", bytes(len(now)), now]
                (path / name).write_bytes(states[choose("content", len(states))])

        make(self.root.stat().st_ino, place)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk")


def work(disk: Disk, run: Path) -> None:
    """What a training does to its folder: checkpoints, of which two stay, and a model, later one of more steps."""
    state = RunState(str(run), "run")
    for step in range(1, 5):
        written = run.parent / "written"
        (written / "deep").mkdir(parents=True)
        for name in (
            "config.json",
            "deep/tokenizer.json",
            "lineage.json",
            "optimizer.safetensors",
            "model.safetensors",
        ):
            (written / name).write_text(f'"{name} of step {step}"')
        (written / MANIFEST).write_text(json.dumps({"format_version": 1, "step": step, "validation": None}))
        place = run / "checkpoints" / f"start-{1 + step // 3:03d}" / f"step-{step:07d}"
        put_checkpoint(written, fs.LocalFileSystem(), str(place))
        disk.promised["checkpoint"] = step
        (written / MANIFEST).unlink()
        for left in (written / "deep", written):
            left.rmdir()
        prune(f"{run}/checkpoints", 2)
        if step in (2, 4):
            state.export_model(Saved(str(place), step), {"steps": step}, None, lambda: None)
            disk.promised["model"] = step


def test_a_whole_checkpoint_and_a_whole_model_are_found_after_it(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        disk.watch(patch)
        work(disk, disk.root / "run")
    random_ = random.Random(0)
    ways: dict[str, Callable[[str, int], int]] = {
        "nothing that was not flushed is there": lambda what, states: 0,
        "names are there, contents are not": lambda what, states: states - 1 if what == "names" else 0,
        "names are there, contents are zeros": lambda what, states: states - 1 if what == "names" else states // 2,
        "some are there": lambda what, states: random_.randrange(states),
    }
    assert len(disk.moments) > 100
    for number, moment in enumerate(disk.moments):
        for way, choose in ways.items():
            place = tmp_path / f"{number}-{len(way)}"
            disk.after(moment, place, choose)
            check(place / "run", moment.promised, f"moment {number}, {way}")


def check(run: Path, promised: dict[str, int], when: str) -> None:
    if "checkpoint" in promised:
        found = find_whole(f"{run}/checkpoints", lambda line: None)
        assert found is not None, when
        assert found.step >= promised["checkpoint"], when
        for name in ("deep/tokenizer.json", "optimizer.safetensors"):
            assert Path(found.address, name).read_text() == f'"{name} of step {found.step}"', when
    if "model" in promised:
        check_inventory(run / "model")
        assert (run / "model" / "inventory.json").exists(), when
        steps = json.loads((run / "model" / "lineage.json").read_text())["steps"]
        assert steps >= promised["model"], when
        assert (run / "model" / "model.safetensors").read_text() == f'"model.safetensors of step {steps}"', when
