"""Corrections: photo, sentence and what it means, kept as `prepare custom --expressions PLACE` reads them.

    PLACE/ID.jsonl              one line: {"expr_id", "image", "text", "rle" or "no_target", "corrected", "model"}
    PLACE/photos/SHA256.jpg     the photo's file, untouched

The photo is written first, each file beside its place and renamed (an object in one request): a correction is there
whole or not at all. The id is of the photo and the sentence, so that who corrects a correction replaces it.
"""

import datetime
import hashlib
import io
import json
from typing import Any

from PIL import Image

from mail import addresses, rle
from mail.data import files
from mail.data.images import FORMATS

PHOTOS = "photos"


class Corrections:
    """A place for corrections, local or `s3://`."""

    def __init__(self, place: str):
        self.place = addresses.absolute(place)

    def check(self) -> None:
        """Raises UserError where nothing can be written."""
        files.check_writable(self.place)

    def keep(self, photo: bytes, text: str, mask: rle.RLE | None, model: dict[str, Any]) -> str:
        """Keeps one; returns its id.

        Args:
            mask: at the photo's resolution; None if the sentence names nothing in it.
            model: whose answer was corrected.

        Raises:
            OSError: it cannot be written; then nothing is kept.
        """
        digest = hashlib.sha256(photo).hexdigest()
        name = f"{PHOTOS}/{digest}.{_suffix(photo)}"
        expr_id = hashlib.sha256(f"{digest}\n{text}".encode()).hexdigest()[:24]
        row: dict[str, Any] = {"expr_id": expr_id, "image": name, "text": text}
        if mask is None:
            row["no_target"] = True
        else:
            row["rle"] = rle.to_json(mask)
        row["corrected"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row["model"] = {key: model[key] for key in ("name", "version", "digest")}
        filesystem, path = files.resolve(addresses.join(self.place, name))
        if not files.exists(filesystem, path):
            files.write_bytes(filesystem, path, photo)
        line = json.dumps(row, ensure_ascii=False) + "\n"
        files.write_bytes(*files.resolve(addresses.join(self.place, f"{expr_id}.jsonl")), line.encode())
        return expr_id


def _suffix(photo: bytes) -> str:
    """As the file's format is called; readers go by what a file holds."""
    with Image.open(io.BytesIO(photo), formats=FORMATS) as image:
        return {"JPEG": "jpg", "JPEG2000": "jp2"}.get(image.format or "", (image.format or "img").lower())
