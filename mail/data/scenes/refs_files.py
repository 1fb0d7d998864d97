"""The two forms in which references are published, to be written one reference at a time.

refs(SPLIT_BY).p        RefCOCO's: a pickled list (protocol 2) of references to one annotation each
grefs(SPLIT_BY).json    gRefCOCO's: `ann_id` is a list of annotations, or [-1] where `no_target` is true
"""

import io
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

NO_ANNOTATION = -1


@dataclass(frozen=True, kw_only=True)
class Named:
    """A reference before it takes a form: its number, its photo, and the COCO annotations that it names."""

    ref_id: int
    image_id: int
    photo: str
    """Name of the photo's file, without its ending."""
    split: str
    annotations: Sequence[dict[str, Any]]
    sentences: Sequence[dict[str, Any]]
    """As `sentence` gives them."""


@dataclass(frozen=True, kw_only=True)
class RefsForm:
    """A form of the file of references.

    Attributes:
        name: of the file, less whose split it is.
        begin, between, end: what the file has before, between and after its references.
        encode: a reference's bytes.
    """

    name: str
    begin: bytes
    between: bytes
    end: bytes
    encode: Callable[[Named], bytes]


def sentence(number: int, text: str) -> dict[str, Any]:
    """An expression, as both forms have it."""
    return {"tokens": text.split(), "raw": text, "sent_id": number, "sent": text}


def _fields(named: Named, file_name: str, ann_id: Any, category_id: Any) -> dict[str, Any]:
    return {
        "sent_ids": [said["sent_id"] for said in named.sentences],
        "file_name": file_name,
        "ann_id": ann_id,
        "ref_id": named.ref_id,
        "image_id": named.image_id,
        "split": named.split,
        "sentences": list(named.sentences),
        "category_id": category_id,
    }


def _pickled(named: Named) -> bytes:
    (annotation,) = named.annotations
    name = f"{named.photo}_{annotation['id']}.jpg"
    body = io.BytesIO()
    pickler = pickle.Pickler(body, protocol=2)
    pickler.fast = True  # without a memo the bytes depend on the values alone, not on which strings are one object
    pickler.dump(_fields(named, name, annotation["id"], annotation["category_id"]))
    return body.getvalue()[2:-1] + b"a"  # less the protocol and the stop mark; then APPEND


def _as_json(named: Named) -> bytes:
    ids, categories = ([a[key] for a in named.annotations] or [NO_ANNOTATION] for key in ("id", "category_id"))
    fields = _fields(named, f"{named.photo}.jpg", ids, categories)
    return json.dumps(fields | {"no_target": not named.annotations}).encode()


REFS = RefsForm(
    name="refs({}).p",
    begin=b"\x80\x02]",  # protocol 2, empty list; each reference then is pushed and appended
    between=b"",
    end=b".",
    encode=_pickled,
)
GREFS = RefsForm(name="grefs({}).json", begin=b"[\n", between=b",\n", end=b"\n]\n", encode=_as_json)
