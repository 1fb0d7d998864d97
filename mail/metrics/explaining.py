"""What a stated number may have been counted by: every convention of the field, tried on the same predictions.

    found = explain("72.73", expressions, {0.5: predictions}, split="val", protocol=PROTOCOLS["original"])
    found.ways[0].value, found.words

Each protocol is a choice of conventions; published numbers mix them, and name them seldom. All of them are combined:
size, threshold (where the predictions are probabilities), targets (where their polygons are at hand), flags, sentences
counted, empty against empty, comparison and denominator of Prec@X. What comes out equal is listed once, by the way that
differs least from the protocol asked for. With so many ways one often comes near by chance: a way with few differences
says more than the nearest.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import product
from typing import Any

import pyarrow as pa

from mail import rle
from mail.errors import UserError
from mail.metrics.accumulator import Counts
from mail.metrics.joining import in_order
from mail.metrics.measure import Measures, measure
from mail.metrics.predictions import PredictionSet
from mail.metrics.protocols import PROTOCOLS, Protocol
from mail.metrics.scoring import network_size, score_predictions

UNION, SUMMED = "union of the polygons", "polygons summed, where the sum is 1"
ALL, TARGETED, FIRST = "all sentences", "sentences with a target", "one sentence a referent (the first)"
THRESHOLDS = (0.5, 0.35)
USUAL = ("oIoU", "mIoU", "gIoU")
NEAR = 0.001  # a tenth of a point


@dataclass(frozen=True)
class Conventions:
    """One way of counting; where a figure does not depend on one of them, it is that of the protocol asked for."""

    size: tuple[int, int] | None
    threshold: float
    target: str
    flags: bool
    sentences: str
    empty_iou: float
    strict: bool
    prec_of_all: bool

    @classmethod
    def of(cls, protocol: Protocol) -> "Conventions":
        p = protocol
        return cls(p.resolution, p.threshold, UNION, p.flags, ALL, p.empty_iou, p.strict, p.prec_of_all)

    def words(self) -> tuple[str, ...]:
        """Each of them for people, in order."""
        return (
            "at the image's own size" if self.size is None else f"squashed to {self.size[0]} x {self.size[1]}",
            f"foreground from {self.threshold}".replace("0.", "."),
            f"targets are the {self.target}" if self.target == UNION else f"targets are the {SUMMED}",
            "a flag beside the mask is heard" if self.flags else "the mask alone says that nothing is meant",
            f"{self.sentences} counted",
            f"empty against empty counts {self.empty_iou:.0f}",
            "Prec counts IoU > X as float32" if self.strict else "Prec counts IoU >= X",
            "Prec is a share of all sentences"
            if self.prec_of_all
            else "Prec is a share of the sentences with a target",
        )


@dataclass(frozen=True, kw_only=True)
class Way:
    """A figure, counted in one way.

    Attributes:
        figure: oIoU, mIoU, gIoU or Prec@.5 to Prec@.9. value: a fraction. away: from the stated number.
        protocol: whose figure it is; None of none.
        differs: in what the way differs from the protocol asked for, in words.
    """

    figure: str
    value: float
    away: float
    protocol: str | None
    differs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """All ways, nearest first; those that round to the stated number are equally near, the simplest first.

    Attributes:
        stated: the number as a fraction. decimals: of it in points. protocol: the one asked for.
        ways: see there. words: what they mean. not_tried: what cannot be tried on these predictions, and why.
    """

    stated: float
    decimals: int
    protocol: str
    ways: tuple[Way, ...]
    not_tried: tuple[str, ...]
    words: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def explain(
    stated: str,
    expressions: pa.Table,
    predictions: Mapping[float, PredictionSet],
    *,
    split: str,
    protocol: Protocol = PROTOCOLS["original"],
    summed: Mapping[str, rle.RLE] | None = None,
    allow_missing: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> Explanation:
    """Tries all ways of counting.

    Args:
        stated: the number as it was printed, in points (72.73) or as a fraction (.7273).
        predictions: by the threshold that made masks of them; one where they are masks.
        summed: targets by `expr_id` as `summed_polygons` makes them; None where the polygons are not at hand.
        progress: is told what is being counted.

    Raises:
        UserError: the number is none, or as of `score_predictions`.
    """
    number, decimals = read_stated(stated)
    asked = Conventions.of(protocol)
    found: dict[tuple[str, float], Way] = {}
    flagged = any(p.no_target is not None for s in predictions.values() for p in s.masks.values())
    # what cannot be tried on these predictions makes no protocol another
    same_for_all: dict[str, Any] = {} if len(predictions) > 1 else {"threshold": asked.threshold}
    same_for_all |= {} if flagged else {"flags": asked.flags}
    for way, figure, value in _ways(expressions, predictions, asked, summed, split, allow_missing, progress):
        differs = tuple(w for w, own in zip(way.words(), asked.words(), strict=True) if w != own)
        known = {p.name: replace(Conventions.of(p), **same_for_all) for p in PROTOCOLS.values()}
        named = next((name for name, other in known.items() if _alike(way, other, figure)), None)
        new = Way(figure=figure, value=value, away=value - number, protocol=named, differs=differs)
        old = found.get((figure, value))
        if old is None or _cost(new) < _cost(old):
            found[figure, value] = new
    half = 0.5 * 10.0 ** -(decimals + 2) + 1e-12

    def nearness(way: Way) -> tuple[float, tuple[int, int], float]:
        rounds = abs(way.away) <= half
        return (0.0 if rounds else abs(way.away)), _cost(way), abs(way.away)

    ways = tuple(sorted(found.values(), key=nearness))
    not_tried = (
        *(() if len(predictions) > 1 else ("other thresholds: the predictions are masks, not probabilities",)),
        *(
            ()
            if summed is not None
            else ("sums of polygons: a store holds their union, --instances names the polygons",)
        ),
        *(() if flagged else ("flags beside the masks: these predictions have none",)),
    )
    return Explanation(
        stated=number,
        decimals=decimals,
        protocol=protocol.name,
        ways=ways,
        not_tried=not_tried,
        words=_in_words(stated, half, protocol, ways),
    )


def read_stated(text: str) -> tuple[float, int]:
    """A number in points, or a fraction, as a fraction; and how many decimals it has in points."""
    if not re.fullmatch(r"\d{0,3}(\.\d{1,12})?", text.strip()) or not text.strip(". ") or float(text) > 100:
        raise UserError(f"--explain {text!r} is no figure: write it as it was printed, as 72.73 or .7273")
    decimals = len(text.strip().partition(".")[2])
    return (float(text), max(decimals - 2, 0)) if float(text) <= 1 else (float(text) / 100, decimals)


def _ways(
    expressions: pa.Table,
    predictions: Mapping[float, PredictionSet],
    asked: Conventions,
    summed: Mapping[str, rle.RLE] | None,
    split: str,
    allow_missing: bool,
    progress: Callable[[str], None],
) -> Iterator[tuple[Conventions, str, float]]:
    """Every figure of every way."""
    own = network_size(expressions, next(iter(predictions.values())).masks)
    sizes = list(dict.fromkeys([asked.size, None, (480, 480), *([own] if own else [])]))
    flagged = any(p.no_target is not None for s in predictions.values() for p in s.masks.values())
    targets = {UNION: expressions} | ({SUMMED: _replaced(expressions, summed)} if summed is not None else {})
    ref_of = dict(zip(expressions["expr_id"].to_pylist(), expressions["ref_id"].to_pylist(), strict=True))
    first = {ref_of[e]: e for e in reversed(in_order(list(ref_of)))}
    for size, (threshold, given), target, flags in product(
        sizes, predictions.items(), targets, (asked.flags, not asked.flags) if flagged else (asked.flags,)
    ):
        if len(predictions) == 1:  # masks, whatever threshold made them
            threshold = asked.threshold
        base = replace(asked, size=size, threshold=threshold, target=target, flags=flags)
        progress(", ".join(base.words()[:3]))
        protocol = replace(PROTOCOLS["original"], resolution=size, flags=flags)
        scored = score_predictions(targets[target], given, split=split, protocol=protocol, allow_missing=allow_missing)
        counts = scored[0].counts
        targeted = [e for e, c in counts.items() if not c.no_target]
        chosen: dict[str, Sequence[str] | None] = {ALL: None, FIRST: list(first.values())}
        if len(targeted) < len(counts):
            chosen[TARGETED] = targeted
        for sentences, ids in chosen.items():
            yield from _figures(replace(base, sentences=sentences), counts, ids)


def _figures(
    base: Conventions, counts: Mapping[str, Counts], ids: Sequence[str] | None
) -> Iterator[tuple[Conventions, str, float]]:
    def measured(way: Conventions) -> Measures:
        p = PROTOCOLS["cris" if way.strict else "original"]
        p = replace(p, flags=way.flags, empty_iou=way.empty_iou, strict=way.strict, prec_of_all=way.prec_of_all)
        return measure(counts, p, ids)

    found: list[tuple[Conventions, str, float | None]] = []
    for empty in (1.0, 0.0):
        way = replace(base, empty_iou=empty)
        found.append((way, "mIoU", measured(way).mIoU))
    figures = measured(base)
    found.append((base, "oIoU", figures.oIoU))
    if any(c.no_target for c in counts.values()):
        found.append((base, "gIoU", figures.gIoU))
    # of empty answers CRIS' own comparison would count those that are worth 1
    for strict, of_all, empty in product((False, True), (False, True), (1.0, 0.0)):
        way = replace(base, strict=strict, prec_of_all=of_all, empty_iou=empty)
        found += [(way, f"Prec@{x.removeprefix('0')}", value) for x, value in measured(way).prec.items()]
    yield from ((way, name, value) for way, name, value in found if value is not None)


def _replaced(expressions: pa.Table, targets: Mapping[str, rle.RLE]) -> pa.Table:
    rows = zip(expressions["expr_id"].to_pylist(), expressions["target"].to_pylist(), strict=True)
    column = pa.array([targets.get(e, own) for e, own in rows], expressions.schema.field("target").type)
    return expressions.set_column(expressions.schema.get_field_index("target"), "target", column)


def _alike(one: Conventions, other: Conventions, figure: str) -> bool:
    """Whether two ways give the same figure whatever the predictions."""
    without = {"oIoU": 5, "gIoU": 5, "mIoU": 6}.get(figure, 8)
    return astuple(one)[:without] == astuple(other)[:without]


def _cost(way: Way) -> tuple[int, int]:
    """How much has to be supposed: each difference, or the name of one protocol; and how usual the figure is."""
    differences = min(len(way.differs), 1) if way.protocol is not None else 1 + len(way.differs)
    return differences, USUAL.index(way.figure) if way.figure in USUAL else len(USUAL)


def _in_words(stated: str, half: float, protocol: Protocol, ways: Sequence[Way]) -> str:
    asked = {w.figure: w.value for w in reversed(ways) if not w.differs}
    usual = ", ".join(f"{name} {100 * asked[name]:.2f}" for name in ("oIoU", "mIoU") if name in asked)
    nearest = ways[0]
    how = "protocol " + nearest.protocol if nearest.protocol else f"protocol {protocol.name}, but"
    differs = "" if not nearest.differs else ": " + "; ".join(nearest.differs)
    kind = f"the {nearest.figure} of {how}{differs}"
    if abs(nearest.away) <= half:
        words = f"{stated} is {kind} (protocol {protocol.name} gives {usual})."
    else:
        off = f"{100 * abs(nearest.away):.2f} {'more' if nearest.away > 0 else 'less'}"
        words = f"No way gives {stated}. Nearest is {kind}: {100 * nearest.value:.2f}, {off} "
        words += f"(protocol {protocol.name} gives {usual})."
    same = sum(abs(w.away) <= half for w in ways)
    if same > 1:
        words += f" {same} ways round to it: the one that supposes least is named."
    if abs(nearest.away) > NEAR:
        words += " So far off, other predictions, another split or edition of the data are likelier than another count."
    return words
