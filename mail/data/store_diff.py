"""What changed from one data store to another: images, expressions, targets, splits.

Images and expressions are the same where their ids are. Ids begin with the store's name; where the two stores have
different names, it counts for nothing.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from mail import rle
from mail.data.store import DataStore
from mail.errors import first_few

SHOWN = 5


@dataclass
class Difference:
    """Ids, sorted, of what is only in the second store, only in the first, and different in the two.

    Attributes:
        renamed: images of the second store that are in the first one under another id: (old, new).
        texts: (old, new) of expressions. targets: IoU of the two; None for two sizes. splits: (old, new).
        other: expressions of which something else changed (image, category, ref, annotations).
    """

    images_added: list[str] = field(default_factory=list)
    images_removed: list[str] = field(default_factory=list)
    images_changed: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    expressions_added: list[str] = field(default_factory=list)
    expressions_removed: list[str] = field(default_factory=list)
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    targets: dict[str, float | None] = field(default_factory=dict)
    splits: dict[str, tuple[str, str]] = field(default_factory=dict)
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def lines(self) -> Iterator[str]:
        """What changed as a person reads it, and how much."""
        yield from _counted("images", self.images_added, self.images_removed, self.images_changed)
        if self.renamed:
            shown = [f"{old} -> {new}" for old, new in self.renamed]
            yield f"  {len(shown)} of the added images are removed ones under another id: {first_few(shown, SHOWN)}"
        changed = sorted({*self.texts, *self.targets, *self.splits, *self.other})
        yield from _counted("expressions", self.expressions_added, self.expressions_removed, changed)
        if self.texts:
            shown = [f"{expr_id}: {old!r} -> {new!r}" for expr_id, (old, new) in self.texts.items()]
            yield f"  {len(shown)} texts changed: {first_few(shown, SHOWN)}"
        if self.targets:
            named = {key: "of another size" if iou is None else f"IoU {iou:.3f}" for key, iou in self.targets.items()}
            shown = [f"{expr_id} ({said})" for expr_id, said in named.items()]
            yield f"  {len(shown)} targets changed: {first_few(shown, SHOWN)}"
        if self.splits:
            moves = Counter(f"{old} -> {new}" for old, new in self.splits.values()).most_common()
            said = ", ".join(f"{move} {count}" for move, count in moves)
            yield f"  {len(self.splits)} splits changed ({said}): {first_few(list(self.splits), SHOWN)}"
        if self.other:
            yield f"  {len(self.other)} others changed (ref, image, category): {first_few(self.other, SHOWN)}"


def difference(first: DataStore, second: DataStore) -> Difference:
    """What changed from the first store to the second."""
    names = ("", "") if first.name == second.name else (f"{first.name}/", f"{second.name}/")
    found = Difference()
    old, new = (
        {image_id.removeprefix(name): sha256 for image_id, sha256 in zip(*_columns(store), strict=True)}
        for store, name in zip((first, second), names, strict=True)
    )
    found.images_added, found.images_removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    found.images_changed = sorted(key for key in old.keys() & new.keys() if old[key] != new[key])
    gone = {old[key]: key for key in found.images_removed}
    found.renamed = [(gone[new[key]], key) for key in found.images_added if new[key] in gone]
    before, after = (_expressions(store, name) for store, name in zip((first, second), names, strict=True))
    found.expressions_added = sorted(after.keys() - before.keys())
    found.expressions_removed = sorted(before.keys() - after.keys())
    for expr_id in sorted(before.keys() & after.keys()):
        a, b = before[expr_id], after[expr_id]
        if a == b:
            continue
        if a["text"] != b["text"]:
            found.texts[expr_id] = a["text"], b["text"]
        if (a["target"], a["no_target"]) != (b["target"], b["no_target"]):
            found.targets[expr_id] = _iou(a["target"], b["target"])
        if a["split"] != b["split"]:
            found.splits[expr_id] = a["split"], b["split"]
        if any(a[key] != b[key] for key in ("ref_id", "image_id", "category", "ann_ids")):
            found.other.append(expr_id)
    return found


def _columns(store: DataStore) -> tuple[list[str], list[str]]:
    index = store.image_index
    return index["image_id"].to_pylist(), index["sha256"].to_pylist()


def _expressions(store: DataStore, name: str) -> dict[str, dict[str, Any]]:
    rows = store.expressions().to_pylist()
    for row in rows:
        for key in ("expr_id", "ref_id", "image_id"):
            row[key] = row[key].removeprefix(name)
    return {row["expr_id"]: row for row in rows}


def _iou(a: rle.RLE, b: rle.RLE) -> float | None:
    if a["size"] != b["size"]:
        return None
    return float(rle.iou_matrix([a], [b])[0, 0])


def _counted(kind: str, added: list[str], removed: list[str], changed: list[str]) -> Iterator[str]:
    yield f"{kind}: {len(added)} added, {len(removed)} removed, {len(changed)} changed"
    for sign, names in (("+", added), ("-", removed), ("~", changed)):
        if names:
            yield f"  {sign} {first_few(names, SHOWN)}"
