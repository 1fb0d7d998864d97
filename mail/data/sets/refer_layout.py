"""Reads the data sets of the REFER API, as its authors publish them or from a mirror in Parquet form."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mail.data.ingest import Findings
from mail.data.refer import (
    IMAGE_FOLDERS,
    Ref,
    ReferLayout,
    count_splits,
    files_of,
    find_image_folder,
    find_layout,
    read_refs,
    shared_images,
    write_store,
)
from mail.data.schema import single_splits
from mail.data.sets import refer_parquet
from mail.data.store import DataStore
from mail.data.typed import whole_number


@dataclass(frozen=True)
class ReferAnnotations:
    """References and where the rest of their data set is; see `definition.Annotations`."""

    layout: ReferLayout
    refs: Sequence[Ref]
    remarked: tuple[str, ...] = ()
    kept: Any = None
    """What lasts as long as this: the files of the layout, if they are temporary."""

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
        yield from self.remarked
        yield from shared_images(self.refs)
        for split, count in self.count().items():
            if len(both := single_splits(split)) > 1:
                yield f"{count['refs']} refs are of {split}, which the REFER API counts with {' and with '.join(both)}"

    @property
    def write_store(self) -> Callable[..., tuple[DataStore, Findings]]:
        return partial(write_store, self.layout, self.refs)


def read(
    dataset: str,
    root: Path,
    split_by: str,
    images: Path | None,
    *,
    mirror: refer_parquet.Mirror | None = None,
    name: str = "",
    namespace: str = "coco",
    image_folders: Sequence[str] = IMAGE_FOLDERS,
    annotation_id: Callable[[Any, str], int] = whole_number,
) -> ReferAnnotations:
    """The references of ROOT/DATASET/refs(SPLIT_BY).p, or those of Parquet files where ROOT is, or holds, such.

    Args:
        mirror: of the data set in Parquet form. The others are `refer.find_layout`'s.
    """
    name = f"{name or dataset}-{split_by}"
    files = mirror.files(root, dataset, split_by) if mirror is not None else []
    if mirror is None or not files:
        layout = find_layout(
            root,
            dataset,
            split_by,
            images,
            name=name,
            namespace=namespace,
            image_folders=image_folders,
            annotation_id=annotation_id,
        )
        return ReferAnnotations(layout, read_refs(layout.refs, annotation_id))
    photos = find_image_folder(root.parent if root.is_file() else root, images, image_folders)
    kept = mirror.restored(files, split_by)
    layout = ReferLayout(
        name=name,
        dataset=dataset,
        split_by=split_by,
        refs=Path(kept.name) / "refs.json",
        instances=Path(kept.name) / "instances.json",
        images=photos,
        namespace=namespace,
        annotation_id=annotation_id,
        sources=tuple(files),
    )
    return ReferAnnotations(layout, read_refs(layout.refs, annotation_id), mirror.remarks, kept)
