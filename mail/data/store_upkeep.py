"""Looking after a data store: is every byte of it what `prepare` wrote."""

import hashlib
from collections.abc import Iterator

from mail.data import files
from mail.data.ingest import Progress
from mail.data.store import DataStore
from mail.errors import UserError


def verify(store: DataStore, progress: Progress | None = None) -> Iterator[str]:
    """Reads every data file and yields what is wrong: missing files, lengths, digests, numbers of rows.

    Args:
        progress: is called with the files that were read and their number.
    """
    listed = [*store.image_files, *store.expression_files]
    for number, file in enumerate(listed, 1):
        if progress is not None:
            progress(number, len(listed))
        try:
            data = files.read_bytes(store.filesystem, store.path(file))
        except FileNotFoundError:
            yield f"{file.path}: the file is missing"
            continue
        if len(data) != file.bytes:
            yield f"{file.path}: it has {len(data)} bytes instead of {file.bytes}"
        elif hashlib.sha256(data).hexdigest() != file.sha256:
            yield f"{file.path}: its content is not what was written"
        else:
            try:
                rows = store.open(file).metadata.num_rows
            except UserError as error:
                yield str(error)
                continue
            if rows != file.rows:
                yield f"{file.path}: it has {rows} rows instead of {file.rows}"
