"""What of a chain of stages (the demo, a fine-tuning) is done, so that one that was killed goes on."""

import json
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs

from mail import json_text
from mail.data import files
from mail.errors import UserError
from pipelines.claiming.marks import FOLDER
from pipelines.terminal import console, say


class Record:
    """What is done, how long it took and what came out, kept in a file so that a chain that was killed can go on."""

    def __init__(self, path: str | Path, settings: dict[str, Any]):
        self.path, self.settings = str(path), settings
        self.seconds: dict[str, float] = {}
        self.results: dict[str, Any] = {}
        self.begun: list[str] = []
        self.continued: list[str] = []  # killed once: their seconds are those of the last start

    @classmethod
    def open(
        cls,
        path: str | Path,
        settings: dict[str, Any],
        chain: str = "demo",
        mend: str = "start anew with --fresh, or choose another --out",
        made: Collection[str] | None = None,
    ) -> "Record":
        """The record in the file, a new one if there is none.

        Args:
            path: address of the file. chain: its name. mend: what a person can do about one with other settings.
            made: names of what the chain makes beside the file; None: whatever is there may be somebody's.

        Raises:
            UserError: the file is of a chain with other settings; or there is none beside what may be somebody's.
        """
        record = cls(path, settings)
        filesystem, place = files.resolve(path)
        if files.exists(filesystem, place):
            values = json_text.read_record(str(path), files.read_bytes(filesystem, place), "settings")
            before = values["settings"]
            if changed := sorted(k for k in settings.keys() | before.keys() if settings.get(k) != before.get(k)):
                names = ", ".join(f"--{k.rstrip('_').replace('_', '-')}" for k in changed)
                raise UserError(f"{str(path).rpartition('/')[0]} holds a {chain} with other {names}: {mend}")
            record.__dict__ |= values
            return record
        there = filesystem.get_file_info(fs.FileSelector(place.rpartition("/")[0], allow_not_found=True))
        names_there = sorted(found.base_name for found in there if found.base_name != FOLDER)
        if foreign := [name for name in names_there if made is None or name in made]:
            folder = str(path).rpartition("/")[0]
            raise UserError(f"{folder} holds {foreign[0]}, which no {chain} made: choose another --out")
        return record

    def is_done(self, name: str) -> bool:
        return name in self.seconds

    def run(self, name: str, step: Callable[[], Any]) -> None:
        """Runs a step and notes that it is done; one that was begun before is noted as continued."""
        if name in self.begun and name not in self.continued:
            self.continued.append(name)
        if name not in self.begun:
            self.begun.append(name)
        self._write()
        started = time.monotonic()
        self.results[name] = step()
        self.seconds[name] = round(time.monotonic() - started, 1)
        self._write()

    def run_all(self, steps: Sequence[tuple[str, Callable[[], Any]]], before: Callable[[str], None]) -> None:
        """Runs all that is not done yet, and says so. `before` is called with the name of each, ahead of it."""
        for number, (name, step) in enumerate(steps, start=1):
            heading = f"[{number}/{len(steps)}] {name}"
            if self.is_done(name):
                say(f"{heading}: is there already ({self.seconds[name]:.0f} s)")
                continue
            console.print(f"[bold]{heading}[/bold]")
            before(name)
            self.run(name, step)
            say(f"{heading}: {self.seconds[name]:.0f} s")

    def _write(self) -> None:
        text = json.dumps({k: v for k, v in vars(self).items() if k != "path"}, indent=2)
        files.write_bytes(*files.resolve(self.path), text.encode())
