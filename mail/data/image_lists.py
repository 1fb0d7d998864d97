"""What a person names as seen, or not to be seen: files that list images, data stores, whole collections."""

from typing import Any

import pyarrow as pa

from mail import json_text
from mail.data import files
from mail.data.image_keys import keys_of
from mail.data.origins import COLLECTIONS, REST, Collection, Origin, is_collection
from mail.data.store import DataStore
from mail.errors import UserError


def read_images(path: str, namespace: str) -> pa.Table:
    """Keys of the images that something lists.

    Args:
        path: a text file (an id a line), a JSON list of ids, a proposer's `images.json`, a COCO annotations file, or a
            data store.
        namespace: bare numbers are taken as ids of it.

    Raises:
        UserError: it is none of these, or an `images.json` that says more than a list.
    """
    origin = read_origin(path, namespace)
    if origin.collections or origin.unknown:
        raise UserError(f"{path} is no list of images, but says: {origin}")
    return origin.images


def read_ids(path: str, namespace: str) -> set[str]:
    """The ids alone of `read_images`."""
    return set(read_images(path, namespace)["image_id"].to_pylist())


def read_origin(path: str, namespace: str) -> Origin:
    """What was seen, as a file or data store says it (those of `read_images`, and any `images.json`)."""
    if files.is_folder(path):
        store = DataStore(path)
        return Origin.of(pa.concat_tables(store.image_keys(list(store.splits)).values()))
    try:
        text = files.read_bytes(*files.resolve(path)).decode()
        is_json = text.lstrip().startswith(("[", "{")) or text.strip() == "null"
        content = json_text.parse(text) if is_json else text.split()
    except FileNotFoundError:
        raise UserError(
            f"there is no file {path}: it should list image ids, one a line, or be a data store, or the name of a "
            f"collection ({', '.join(COLLECTIONS)}, NAME{REST})"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is neither a JSON list of image ids nor one id a line: {error}") from None
    if isinstance(content, dict) and "collections" not in content:
        annotated = content.get("images")
        if not isinstance(annotated, list) or not all(isinstance(i, dict) and "id" in i for i in annotated):
            raise UserError(f"{path} lists no images: a JSON list of ids, or a COCO annotations file, is expected")
        content = [str(i["id"]) for i in annotated]
    try:
        if isinstance(content, dict) or content is None:
            return Origin.from_json(content)
        return Origin.of(keys_of(_entries(path, content, namespace)))
    except (TypeError, ValueError):
        raise UserError(f"{path}: an image is an id, or a list of its id, two digests and a hash") from None


def origin_of(named: tuple[str, ...], but: str | None, namespace: str) -> Origin:
    """What was seen, as a person says it.

    Args:
        named: collections, and what `read_origin` reads; all of them together.
        but: lists images that were not seen though a collection may hold them; None for none.

    Raises:
        UserError: one cannot be read; `but` is given and no collection is.
    """
    left_out = frozenset() if but is None else frozenset(read_ids(but, namespace))
    found = Origin.of()
    for name in named:
        found |= (
            Origin.of(collections=[Collection(name, left_out)])
            if is_collection(name)
            else (read_origin(name, namespace))
        )
    if but is not None and not any(map(is_collection, named)):
        raise UserError(f"{but} lists images that were not seen: that goes with a collection only")
    return found


def _entries(path: str, listed: list[Any], namespace: str) -> list[Any]:
    """Entries as `keys_of` takes them, each image once."""
    images: dict[str, Any] = {}
    for entry in listed:
        name, *content = map(str, [entry]) if not isinstance(entry, list) else (entry or [""])
        if not isinstance(name, str) or ("/" not in name and not name.isdigit()):
            raise UserError(f"{path}: {name!r:.60} is not an image id (expected 520199 or coco/520199)")
        image_id = name if "/" in name else f"{namespace}/{int(name)}"
        images[image_id] = (image_id, *content) if content else image_id
    return list(images.values())
