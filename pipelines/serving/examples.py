"""Photos that a visitor may try: the first of a data store, each with a sentence that was written about it."""

import io
from typing import Any

from PIL import Image

from mail.data.images import FORMATS
from mail.data.store import DataStore

MOST = 8


class Examples:
    """The examples of a data store; none without one."""

    def __init__(self, store: str | None):
        self._found: dict[str, tuple[bytes, str, str]] = {}
        if store is not None:
            self._read(DataStore(store))

    def listed(self) -> list[dict[str, str]]:
        """As `GET /v1/model` tells them."""
        return [{"name": n, "url": f"/v1/examples/{n}", "text": text} for n, (_, _, text) in self._found.items()]

    def photo(self, name: str) -> tuple[bytes, str] | None:
        """The file of one, and its media type."""
        found = self._found.get(name)
        return None if found is None else (found[0], found[1])

    def _read(self, store: DataStore) -> None:
        """Of photos that the model was not trained on, where there are any."""
        held_out = [split for split in store.splits if split != "train"] or list(store.splits)
        table = store.expressions(held_out, ["image_id", "text", "no_target"])
        texts: dict[str, str] = {}
        for row in table.to_pylist():
            if not row["no_target"]:
                texts.setdefault(row["image_id"], row["text"])
        for batch in store.images(["image_id", "image"]):
            for row in batch.to_pylist():
                if row["image_id"] in texts and (kind := _media_type(row["image"])):
                    name = f"{len(self._found) + 1}"
                    self._found[name] = (row["image"], kind, texts[row["image_id"]])
                    if len(self._found) == MOST:
                        return


def _media_type(photo: Any) -> str | None:
    try:
        with Image.open(io.BytesIO(photo), formats=FORMATS) as image:
            return f"image/{image.format.lower()}" if image.format in ("JPEG", "PNG") else None
    except OSError:
        return None
