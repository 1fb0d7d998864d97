"""What a model is made of, by its lineage, each ingredient with what it saw: the leak firewall compares all of them.

model -> its training data, the proposer of its masks, the pre-trained encoder that it began with
      -> what it rehearsed (`rehearsal` of the lineage)
      -> the parent that it was trained from (`parent`, the whole lineage) -> the parent's own ingredients -> ...

A model has seen all that its parents saw.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mail.data.mask_snapshot import read_origin
from mail.data.origins import COLLECTIONS, REST, UNKNOWN, Origin
from mail.data.published_origins import origin_of_encoder
from mail.data.store import DataStore
from mail.errors import UserError
from mail.proposers.folder import ProposerFolder

TRAINING_DATA = "training data"
PROPOSER = "proposer"
ENCODER = "pre-trained encoder"


@dataclass(frozen=True)
class Ingredient:
    """One of the things that a model is made of.

    Attributes:
        kind: `TRAINING_DATA`, `PROPOSER` or `ENCODER`.
        generation: 0 for the model's own, 1 for its parent's, and so on.
        gone: what it was, if nobody can tell any more which images that held; empty otherwise. `origin` is then what it
            may have held.
    """

    kind: str
    name: str
    origin: Origin
    generation: int = 0
    gone: str = ""

    @property
    def owner(self) -> str:
        """Whose it is: `model`, `parent`, `parent's parent` ..."""
        return "'s ".join(["parent"] * self.generation) or "model"

    def __str__(self) -> str:
        return f"{self.owner}'s {self.kind} {self.name}" if self.generation else f"{self.kind} {self.name}"


def generations(lineage: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A lineage and those of the parents, the model's own first; what a model rehearsed follows it."""
    return (found for _, found in _numbered(lineage))


def _numbered(lineage: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    found: Any = lineage
    for number in itertools.count():
        if not found:
            return
        yield number, found
        if rehearsal := found.get("rehearsal"):
            yield number, rehearsal
        found = found.get("parent")


def ingredients(
    lineage: Mapping[str, Any], store: DataStore | None = None, folder: Path | None = None
) -> list[Ingredient]:
    """What a model is made of.

    Args:
        store: one that is at hand, which may be the one that it was trained on.
        folder: the MODEL folder, where it carries its proposer; None looks at the mask table alone.
    """
    found: list[Ingredient] = []
    for number, each in _numbered(lineage):
        found.append(_training_data(each, store, number))
        if (proposer := _proposer(each, number, folder if number == 0 else None)) is not None:
            found.append(proposer)
        encoder = (each.get("config") or {}).get("pretrained")
        if encoder:
            found.append(Ingredient(ENCODER, str(encoder), origin_of_encoder(str(encoder)), number))
    return found


def training_store(lineage: Mapping[str, Any]) -> DataStore:
    """The data store that a model was trained on.

    Raises:
        UserError: it is not there now, or another one is.
    """
    source = lineage.get("data_store") or {}
    store = DataStore(source.get("uri") or "")
    if store.digest != source.get("digest"):
        raise UserError(f"{source['uri']} holds another data store now, digest {store.digest[:12]}")
    return store


def namespaces(store: DataStore) -> list[str]:
    """What the image ids of a store begin with, up to the first slash; empty where one has none."""
    begins = {image_id.partition("/") for image_id in store.image_ids().to_pylist()}
    return sorted({name for name, slash, _ in begins}) if all(slash for _, slash, _ in begins) else []


def _training_data(lineage: Mapping[str, Any], store: DataStore | None, generation: int) -> Ingredient:
    source, split = lineage.get("data_store") or {}, (lineage.get("config") or {}).get("split") or "train"
    name, digest = source.get("name") or "a data store", source.get("digest")
    if store is None or store.digest != digest:
        try:
            store = training_store(lineage)
        except (UserError, OSError):
            store = None
    if store is None or split not in store.splits:
        where = source.get("uri") or "a place that was not recorded"
        gone = f"{name} {str(digest)[:12]}, which is not at {where} now"
        # not which images they were, but which they cannot have been
        known = source.get("namespaces")
        origin = Origin.of((), [f"{each}{REST}" for each in known]) if known else UNKNOWN
        return Ingredient(TRAINING_DATA, f"{name} {split}", origin, generation, gone)
    return Ingredient(TRAINING_DATA, f"{name} {split}", Origin.of(store.image_keys([split])[split]), generation)


def _proposer(lineage: Mapping[str, Any], generation: int, folder: Path | None) -> Ingredient | None:
    """None for a network without instance masks."""
    masks, recorded = lineage.get("mask_table") or {}, lineage.get("proposer") or {}
    name = recorded.get("id") or masks.get("proposer_id")
    if not name:
        return None
    summary = recorded.get("trained_on")
    origin, gone = UNKNOWN, ""
    with contextlib.suppress(UserError, OSError):  # another place may know it
        origin = read_origin(masks.get("uri") or "", name)
    if origin == UNKNOWN and folder is not None and (folder / "proposer").is_dir():
        carried = ProposerFolder.read(folder / "proposer")
        if carried.weights_sha256 == recorded.get("weights_sha256"):
            origin = carried.origin
    if origin == UNKNOWN and summary:
        whole = summary.get("collections") or []
        if summary.get("count") or not set(whole) <= COLLECTIONS.keys():
            gone = f"{summary.get('count')} images, whose list is not at {masks.get('uri')} now"
        else:
            origin = Origin.of((), whole, summary.get("without_masks") or ())
    return Ingredient(PROPOSER, str(name), origin, generation, gone)
