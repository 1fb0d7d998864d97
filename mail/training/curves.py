"""All that was measured in a run so far. It travels with the checkpoints, so that no curve has a gap after a kill."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

FILE = "curves.jsonl.gz"

Record = dict[str, float]
"""`step` (steps done), `time` (seconds since 1970) and any figures."""


class Curves:
    """Records by kind (`train`, `speed`, `validation`), in the order in which they were made."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, Record]] = []

    def add(self, kind: str, records: Sequence[Record]) -> None:
        self._rows += [(kind, dict(r)) for r in records]

    def by_kind(self) -> Iterator[tuple[str, list[Record]]]:
        """Each kind with all of its records."""
        for kind in dict.fromkeys(kind for kind, _ in self._rows):
            yield kind, [record for other, record in self._rows if other == kind]

    def save(self, folder: Path) -> None:
        """Writes them into a checkpoint: about 60 bytes a step."""
        with gzip.open(folder / FILE, "wt", compresslevel=3) as file:
            for kind, record in self._rows:
                file.write(json.dumps([kind, record]) + "\n")

    @classmethod
    def load(cls, folder: Path | None) -> "Curves":
        """Those of a checkpoint; none, where there is no checkpoint or an older one without them."""
        curves = cls()
        if folder is not None and (folder / FILE).exists():
            with gzip.open(folder / FILE, "rt") as file:
                curves._rows = [(kind, record) for kind, record in map(json.loads, file)]
        return curves
