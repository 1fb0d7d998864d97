"""Reads the data sets of the REFER API, as its authors publish them or from a mirror in Parquet form."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mail.data.ingest import Findings
from mail.data.refer import Ref, ReferLayout, count_splits, files_of, find_layout, read_refs, shared_images, write_store
from mail.data.schema import single_splits
from mail.data.store import DataStore


@dataclass(frozen=True)
class ReferAnnotations:
    """References and where the rest of their data set is; see `definition.Annotations`."""

    layout: ReferLayout
    refs: Sequence[Ref]

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def files(self) -> Sequence[Path]:
        return files_of(self.layout)

    @property
    def images(self) -> Path:
        return self.layout.images

    def count(self) -> dict[str, dict[str, int]]:
        return count_splits(self.refs)

    def remarks(self) -> Iterator[str]:
        yield from shared_images(self.refs)
        for split, count in self.count().items():
            if len(both := single_splits(split)) > 1:
                yield f"{count['refs']} refs are of {split}, which the REFER API counts with {' and with '.join(both)}"

    @property
    def write_store(self) -> Callable[..., tuple[DataStore, Findings]]:
        return partial(write_store, self.layout, self.refs)


def read(dataset: str, root: Path, split_by: str, images: Path | None) -> ReferAnnotations:
    """The references of ROOT/DATASET/refs(SPLIT_BY).p; see `refer.find_layout`."""
    layout = find_layout(root, dataset, split_by, images)
    return ReferAnnotations(layout, read_refs(layout.refs))
