"""A model's ingredients beside the evaluation splits that they may have seen: what leaks, and why.

mail-ris models audit MODEL
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mail.data.store import DataStore
from mail.errors import UserError
from mail.ingredients import generations, ingredients, training_store
from mail.leakage import check_ingredients, evaluated


def stores_of(lineage: Mapping[str, Any]) -> tuple[list[DataStore], list[str]]:
    """The data stores that a model and its parents were trained on, and a line for each that is not there now."""
    found: dict[str, DataStore] = {}
    missing: dict[str, str] = {}
    for each in generations(lineage):
        source = each.get("data_store") or {}
        name, digest = source.get("name") or "a data store", str(source.get("digest"))
        try:
            found[digest] = training_store(each)
        except (UserError, OSError) as error:
            missing[digest] = f"{name} {digest[:12]} cannot be compared with: {error}"
    return list(found.values()), list(missing.values())


def audit(lineage: Mapping[str, Any], stores: Sequence[DataStore], folder: Path | None = None) -> dict[str, Any]:
    """What each ingredient saw of each evaluation split of some data stores, ready for JSON.

    Args:
        folder: the MODEL folder.

    Returns:
        `leaky` (of any split), `label` (what the model was labelled when it was made), `ingredients` (what each saw),
        and by data store: the `splits` with their verdict, the `overlaps` of every ingredient with each, the `remarks`.
    """
    found: dict[str, Any] = {"leaky": False, "label": bool(lineage.get("leaky")), "ingredients": [], "data_stores": []}
    parts = ingredients(lineage, stores[0] if stores else None, folder)
    for part in parts:
        saw = {"kind": part.kind, "name": part.name, "of": part.owner, "saw": part.gone or str(part.origin)}
        found["ingredients"].append(saw | {"origin": part.origin.summary, "unknown": part.origin.unknown})
    for store in stores:
        splits = evaluated(store)
        verdict = check_ingredients(parts, store, splits, allow_leaky=True)
        overlaps = verdict.compared
        leaky = {split: any(o.leaky for o in overlaps if o.split == split) for split in splits}
        found["leaky"] = found["leaky"] or any(leaky.values())
        found["data_stores"].append(
            {
                "name": store.name,
                "digest": store.digest,
                "uri": store.uri,
                "splits": {s: {"images": store.splits[s]["images"], "leaky": leaky[s]} for s in splits},
                "overlaps": [asdict(o) | {"verdict": str(o)} for o in overlaps],
                "remarks": list(verdict.remarks),
            }
        )
    return found


def as_text(found: Mapping[str, Any], title: str) -> str:
    """The same as a table for each data store: an ingredient a line, a split a column, and what it saw."""
    lines = [f"{title}: {'LEAKY' if found['leaky'] else 'clean'}"]
    saw = [part["saw"] for part in found["ingredients"]]
    for store in found["data_stores"]:
        splits = list(store["splits"])
        lines += ["", f"{store['name']} {store['digest'][:12]} ({store['uri']})"]
        if not splits:
            lines.append("  has no evaluation split")
            continue
        rows = [["ingredient", *splits, "saw"]]
        for number, what in enumerate(saw):
            own = store["overlaps"][number * len(splits) : (number + 1) * len(splits)]
            rows.append([own[0]["ingredient"], *(overlap["verdict"] for overlap in own), what])
        rows.append(["all together", *("LEAKY" if store["splits"][s]["leaky"] else "clean" for s in splits), ""])
        widths = [max(len(row[i]) for row in rows) for i in range(len(splits) + 1)]
        lines += ["  " + "  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows]
        lines += [f"  note: {remark}" for remark in store["remarks"]]
    return "\n".join(lines)
