"""Generated scenes as RefCOCO, RefCOCO+ and RefCOCOg are published: archives, pickles of protocol 2, shared photos."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

from mail.data.scenes.layout import write_published_layout

TEST = {"testA": "test", "testB": "test"}  # of UMD's split of RefCOCOg


def archives(folder: Path, photos: int, seed: int = 0) -> dict[str, bytes]:
    """The files as their servers have them, by name; `folder` is for the scenes that they are made of."""
    write_published_layout(folder, photos, seed)
    instances = json.loads((folder / "synthetic" / "instances.json").read_text())
    del instances["info"]["scenes"]
    refs: list[dict[str, Any]] = pickle.loads((folder / "synthetic" / "refs(synthetic).p").read_bytes())
    umd = [ref | {"split": TEST.get(ref["split"], ref["split"])} for ref in refs]
    google, seen = [], set()
    for ref in refs:  # every photo has objects in train; those of val come from photos that have more
        split = "val" if ref["split"] == "val" and ref["image_id"] in seen else "train"
        seen.add(ref["image_id"])
        google.append(ref | {"split": split})
    text = json.dumps(instances).encode()
    return {
        "refcoco.zip": _zip({"refcoco/instances.json": text, "refcoco/refs(unc).p": pickle.dumps(refs, 2)}),
        "refcoco+.zip": _zip({"refcoco+/instances.json": text, "refcoco+/refs(unc).p": pickle.dumps(refs[::-1], 2)}),
        "refcocog.zip": _zip(
            {
                "refcocog/instances.json": text,
                "refcocog/refs(umd).p": pickle.dumps(umd, 2),
                "refcocog/refs(google).p": pickle.dumps(google, 2),
            }
        ),
        "train2014.zip": _zip(
            {f"train2014/{p.name}": p.read_bytes() for p in sorted((folder / "images" / "train2014").iterdir())}
        ),
    }


def _zip(contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return out.getvalue()
