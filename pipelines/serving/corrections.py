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
import logging
from typing import Any

from PIL import Image

from mail import addresses, rle
from mail.data import files
from mail.data.images import FORMATS
from mail.errors import UserError, on_one_line
from pipelines.serving.refused import Refused

PHOTOS = "photos"
log = logging.getLogger("ray.serve")


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
            Refused: the place does not take it now; then nothing is kept.
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
        line = json.dumps(row, ensure_ascii=False) + "\n"
        try:
            filesystem, path = files.resolve(addresses.join(self.place, name))
            if not files.exists(filesystem, path):
                files.write_bytes(filesystem, path, photo)
            files.write_bytes(*files.resolve(addresses.join(self.place, f"{expr_id}.jsonl")), line.encode())
        except (OSError, UserError) as error:
            log.error("a correction was not kept: %s", on_one_line(str(error)))
            raise Refused(503, "not_kept", "the correction could not be kept: send it again later", 20) from None
        return expr_id


def _suffix(photo: bytes) -> str:
    """As the file's format is called; readers go by what a file holds."""
    with Image.open(io.BytesIO(photo), formats=FORMATS) as image:
        return {"JPEG": "jpg", "JPEG2000": "jp2"}.get(image.format or "", (image.format or "img").lower())
