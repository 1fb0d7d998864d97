"""Which expression a published prediction is of.

| the key is | it stands for |
|---|---|
| `refcoco-unc/15214`, or `refcoco-unc__15214` | the `expr_id` of the store |
| a number that is a sentence's (REFER's `sent_id`) | that sentence; of a whole file more than half must be |
| 0 to N - 1, or 1 to N, N the expressions of the split | a place in the order of the sentences' numbers |
| nothing (a stack without ids) | the same place |
| `REF_ID-iou=71.20-left_man` | CRIS': the sentences of that ref that read so |

RefCOCO's val, testA and testB name their sentences in ascending numbers, so that place and order are those of the
published loaders. An annotation's or a photo's id is no key: both have several sentences. Where a file says the words
beside its masks, they are compared with the store's, and a file whose order is another is refused.
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from mail.errors import UserError, first_few
from mail.metrics.dumps import Entry, is_dump, read_entries
from mail.metrics.predictions import Prediction, PredictionSet, png_name, read_predictions

OTHER_WORDS = 0.1  # share of a file's sentences that may differ in their letters, as published texts do in editions
_CRIS = re.compile(r"(\d+)-iou=[\d.]+-(.*)")


def read_any_predictions(path: str | os.PathLike, expressions: pa.Table, threshold: float = 0.5) -> PredictionSet:
    """Predictions of a split's expressions, in whatever known form (`predictions`, `dumps`).

    Args:
        expressions: the split's rows of a data store. threshold: for files of probabilities.

    Raises:
        UserError: the file cannot be read, or what its masks are of cannot be told.
    """
    return (
        join(os.fspath(path), read_entries(path, threshold), expressions) if is_dump(path) else read_predictions(path)
    )


def join(source: str, entries: Sequence[Entry], expressions: pa.Table) -> PredictionSet:
    """The predictions of entries by `expr_id`; an entry of no expression keeps its key, to be counted as unknown."""
    owners = _Owners(source, expressions, entries)
    found = PredictionSet(source, joined=owners.how)
    wanted: list[tuple[str, Entry]] = []
    for entry, own in zip(entries, owners.of, strict=True):
        for expr_id in own:
            if expr_id in found.masks:
                found.doubled.append(expr_id)
            else:
                found.masks[expr_id] = Prediction(None)
                wanted.append((expr_id, entry))
        if not own:
            found.masks[str(entry.key)] = Prediction(None)
    _check_words(source, wanted, expressions)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        read = pool.map(_read, (entry for _, entry in wanted))
        found.masks |= zip((expr_id for expr_id, _ in wanted), read, strict=True)
    return found


class _Owners:
    """The expressions of each entry, and how they were found."""

    def __init__(self, source: str, expressions: pa.Table, entries: Sequence[Entry]):
        self.source = source
        self.ids: list[str] = expressions["expr_id"].to_pylist()
        self.names: dict[str, list[str]] = {}
        for expr_id in self.ids:
            for name in {expr_id, png_name(expr_id).removesuffix(".png")}:
                self.names.setdefault(name, []).append(expr_id)
        self.expressions = expressions
        self.ways: set[str] = set()
        keys = [_plain(entry.key) for entry in entries]
        by_number = self._numbers([key for key in keys if isinstance(key, int)])
        if None in keys:
            by_place = self._places(len(entries))
            self.of = [[by_place[n]] for n in range(len(entries))]
        else:
            self.of = [self._named(k) if isinstance(k, str) else by_number.get(k or 0, []) for k in keys]
        self.how = " and ".join(sorted(self.ways)) or "expr_id"

    def _named(self, key: str) -> list[str]:
        if len(owners := self.names.get(key, [])) > 1:
            raise UserError(f"{self.source}: {first_few(owners)} would share the name {key}: use JSON lines instead")
        if owners:
            self.ways.add("expr_id")
        elif match := _CRIS.fullmatch(key):
            self.ways.add("ref and words")
            owners = self._sentences.get((match[1], _letters(match[2])), [])
        return owners

    @property
    def _sentences(self) -> dict[tuple[str, str], list[str]]:
        if not hasattr(self, "_by_words"):
            self._by_words: dict[tuple[str, str], list[str]] = {}
            columns = (self.expressions[c].to_pylist() for c in ("expr_id", "ref_id", "text"))
            for expr_id, ref_id, text in zip(*columns, strict=True):
                key = (str(ref_id).rpartition("/")[2], _letters(text or ""))
                self._by_words.setdefault(key, []).append(expr_id)
        return self._by_words

    def _numbers(self, keys: Sequence[int]) -> dict[int, list[str]]:
        if not keys:
            return {}
        tails: dict[int, list[str]] = {}
        for expr_id in self.ids:
            if (tail := expr_id.rpartition("/")[2]).isdecimal():
                tails.setdefault(int(tail), []).append(expr_id)
        known = [key for key in keys if key in tails]
        if doubled := next((tails[key] for key in known if len(tails[key]) > 1), None):
            raise UserError(f"{self.source}: {doubled[0]} and {doubled[1]} have one number: write the whole expr_id")
        first = min(keys)
        if first in (0, 1) and sorted(keys) == list(range(first, first + len(self.ids))):
            places = self._places(len(keys))
            return {first + place: [expr_id] for place, expr_id in enumerate(places)}
        if 2 * len(known) > len(keys):
            self.ways.add("sentence id")
            return tails
        photos = {image_id.rpartition("/")[2] for image_id in self.expressions["image_id"].to_pylist() if image_id}
        hint = " (they are photos', which have several sentences each)" if {str(k) for k in keys} <= photos else ""
        raise UserError(
            f"{self.source}: its masks are of {first_few(sorted(set(keys)))}, no sentences of this split{hint}: "
            f"number them by sentence id, or 0 to {len(self.ids) - 1} in the order of those"
        )

    def _places(self, count: int) -> list[str]:
        """The expressions in the published order."""
        if count != len(self.ids):
            raise UserError(
                f"{self.source} has {count} masks without ids, the split {len(self.ids)} expressions: what they are of "
                "cannot be told"
            )
        self.ways.add("place")
        return in_order(self.ids)


def in_order(expr_ids: Sequence[str]) -> list[str]:
    """Expressions in the order of their sentences' numbers, or as they are where some have none."""
    tails = [expr_id.rpartition("/")[2] for expr_id in expr_ids]
    if not all(tail.isdecimal() for tail in tails):
        return list(expr_ids)
    return [expr_id for _, expr_id in sorted(zip(map(int, tails), expr_ids, strict=True))]


def _plain(key: str | int | None) -> str | int | None:
    """Text of digits alone, as file names are, is a number."""
    return int(key) if isinstance(key, str) and key.isascii() and key.isdecimal() else key


def _check_words(source: str, wanted: Sequence[tuple[str, Entry]], expressions: pa.Table) -> None:
    texts = dict(zip(expressions["expr_id"].to_pylist(), expressions["text"].to_pylist(), strict=True))
    said = [(expr_id, entry) for expr_id, entry in wanted if entry.text is not None]
    other = [(e, entry) for e, entry in said if _letters(entry.text or "") != _letters(texts[e] or "")]
    if len(other) > OTHER_WORDS * len(said):
        expr_id, entry = other[0]
        raise UserError(
            f"{entry.where} answers {entry.text!r:.80}, but {expr_id} is {texts[expr_id]!r:.80}, and so on for "
            f"{len(other)} of {len(said)}: it is of another split, or in another order"
        )


def _letters(text: str) -> str:
    """What two editions of a sentence have in common: letters and digits."""
    return re.sub(r"[\W_]", "", text.lower())


def _read(entry: Entry) -> Prediction:
    try:
        return entry.read()
    except ValueError as error:
        raise UserError(f"{entry.where} {error}") from None
