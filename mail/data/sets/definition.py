"""What a published data set is: its name, what its authors say that it holds, how it is read, where it comes from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from mail.data.ingest import Findings
from mail.data.schema import single_splits
from mail.data.sets.remote import RemoteFile
from mail.data.store import DataStore
from mail.errors import UserError


class Counts(NamedTuple):
    """Size of a split; None where no published number is known."""

    refs: int | None = None
    expressions: int | None = None
    images: int | None = None


class Annotations(Protocol):
    """The annotations of a data set that were found and read, but for the photos."""

    @property
    def name(self) -> str:
        """Of the data store, and the beginning of its expression ids."""

    @property
    def files(self) -> Sequence[Path]:
        """That were read; the first is what errors call the data set."""

    @property
    def images(self) -> Path:
        """Folder of the photos."""

    def count(self) -> dict[str, dict[str, int]]:
        """Per split, in the published order, the number of `refs`, `expressions` and `images`."""

    def remarks(self) -> Iterator[str]:
        """A sentence for everything that a person should know of them."""

    @property
    def write_store(self) -> Callable[..., tuple[DataStore, Findings]]:
        """Writes them and the photos as a data store: of its address, and the options of `ingest.ingest`."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A published data set.

    Attributes:
        name: on the command line.
        about: a line for `--help`.
        published: what every split holds, by whose split it is: "" where there is only one; the first is the default.
        read: of the folder that holds its files, whose split, and the folder of the photos where that is named.
        remote: its files, for `--download`.
        licence: a line on what may be done with them.
    """

    name: str
    about: str
    published: Mapping[str, Mapping[str, Counts]]
    read: Callable[[Path, str, Path | None], Annotations]
    remote: tuple[RemoteFile, ...]
    licence: str

    def differences(self, split_by: str, found: Mapping[str, Mapping[str, int]]) -> list[str]:
        """One short phrase per split that differs from what was published; empty if nothing does.

        Args:
            found: per split the number of `refs`, `expressions` and `images`.
        """
        published = self.published[split_by]
        out = []
        for split, counts in published.items():
            if split not in found:
                out.append(f"{split} is absent" + (f" ({counts.refs} refs published)" if counts.refs else ""))
                continue
            wrong = [
                f"{found[split][kind]} of {number} {kind}"
                for kind, number in counts._asdict().items()
                if number is not None and found[split][kind] != number
            ]
            if wrong:
                out.append(f"{split} has {', '.join(wrong)}")
        unknown = [split for split in found if not published.keys() >= set(single_splits(split))]
        return out + [f"{split} is not a published split" for split in unknown]

    def table(self, split_by: str, found: Mapping[str, Mapping[str, int]]) -> list[str]:
        """Lines of a table: what each split holds, and what was published."""
        published = self.published[split_by]
        lines = [f"{'split':8}{'refs':>18}{'expressions':>20}{'images':>18}   (found / published)"]
        for split in dict.fromkeys([*published, *found]):
            numbers = published.get(split, Counts())._asdict()
            cells = [f"{found.get(split, {}).get(k, 0)} / {'?' if n is None else n}" for k, n in numbers.items()]
            lines.append(f"{split:8}{cells[0]:>18}{cells[1]:>20}{cells[2]:>18}")
        return lines

    def open(self, root: Path, split_by: str, images: Path | None = None) -> Annotations:
        """Its annotations under a folder.

        Raises:
            UserError: there is no such folder, or a file is not there, or is not what was published.
        """
        if not root.exists():
            raise UserError(f"there is no folder {root}: --root is the one that holds the files of {self.name}")
        return self.read(root, split_by, images)
