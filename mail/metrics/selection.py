"""Where the error of propose-then-select sits: was a good proposal there, was it chosen, did the pixels mend the rest?

Of every expression with a target three IoUs with its ground truth are taken: of the best proposal (the *ceiling* of a
network that only selects), of the chosen one, and of the final mask. From .5 on one is good. Of a network that chooses
each proposal by itself, "the chosen one" is all chosen ones together, and the best is the best single one or, where
they are better, those together that lie inside the target by the most, as many as come nearest to it.

| outcome | a good proposal was there | a good one was chosen | the final mask is good |
|---|---|---|---|
| `right` | yes | yes | yes |
| `right, spoilt` | yes | yes | no |
| `passed over` | yes | no | no |
| `passed over, mended` | yes | no | yes |
| `none there` | no | no | no |
| `none there, mended` | no | no | yes |

Proposals are measured at the image's resolution, the final mask as the protocol of the report counts it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from mail import rle

GOOD = 0.5
OUTCOMES = ("right", "right, spoilt", "passed over", "passed over, mended", "none there", "none there, mended")
NAMES_NOTHING = "names nothing"


class Choice(NamedTuple):
    """What was there for one expression, and what was taken.

    Attributes:
        ceiling: IoU of the best proposal, 0 without one; None where the expression names nothing.
        chosen: IoU of the chosen proposal, 0 where none was chosen; None likewise.
        final: IoU of the final mask.
        best: index of the best proposal, or of all those that together are the best; empty if none meets the target.
        taken: index of the chosen proposal, or of all; empty if none was.
    """

    ceiling: float | None
    chosen: float | None
    final: float
    best: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`, or that the expression names nothing."""
        if self.ceiling is None or self.chosen is None:
            return NAMES_NOTHING
        good = self.final >= GOOD
        if self.chosen >= GOOD:
            return "right" if good else "right, spoilt"
        return ("passed over" if self.ceiling >= GOOD else "none there") + (", mended" if good else "")


def choose(
    target: rle.RLE, proposals: Sequence[rle.RLE], selection: Sequence[int], final: float, several: bool = False
) -> Choice:
    """The choice of one expression.

    Args:
        target: ground truth. proposals: of its image, all of the target's size.
        selection: indices of the chosen proposals, the likeliest first. final: IoU of the final mask.
        several: all that were chosen count, together; else the likeliest alone.
    """
    counted = selection if several else selection[:1]
    taken = tuple(int(i) for i in counted if 0 <= i < len(proposals))
    if not rle.area(target):
        return Choice(None, None, final, (), taken)
    inside = rle.inside_matrix([target], proposals)[0]
    meeting = [int(i) for i in np.argsort(-inside, kind="stable") if inside[i] > 0]
    candidates: list[tuple[int, ...]] = [(i,) for i in sorted(meeting)]
    if several:
        candidates += [tuple(meeting[: count + 1]) for count in range(1, len(meeting))]
    candidates.append(taken)
    united = [
        proposals[each[0]] if len(each) == 1 else rle.union([proposals[i] for i in each], target["size"])
        for each in candidates
    ]
    ious = rle.iou_matrix([target], united)[0]
    best = int(ious[:-1].argmax()) if meeting else None
    ceiling = 0.0 if best is None else float(ious[best])
    return Choice(ceiling, float(ious[-1]), final, () if best is None else candidates[best], taken)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The figures of a split's expressions with a target, fractions between 0 and 1; None where there is none of them.

    Attributes:
        expressions: how many have a target.
        ceiling: mean IoU of the best proposal. chosen: of the chosen one. final: of the final mask.
        chosen_good: share of the expressions where a good proposal was chosen.
        passed_over: share where a good one was there and another, or none, was chosen.
        none_there: share where no good one was there.
        mended: share where no good one was chosen and the final mask is good all the same.
        spoilt: share where a good one was chosen and the final mask is not good.
        outcomes: how many expressions have each outcome.
    """

    expressions: int
    ceiling: float | None
    chosen: float | None
    final: float | None
    chosen_good: float | None
    passed_over: float | None
    none_there: float | None
    mended: float | None
    spoilt: float | None
    outcomes: dict[str, int]

    @classmethod
    def of(cls, choices: Mapping[str, Choice]) -> "Selection":
        """Figures of all choices."""
        targeted = [c for c in choices.values() if c.ceiling is not None]
        outcomes = [c.outcome for c in targeted]

        def mean(values: Sequence[float | None]) -> float | None:
            return math.fsum(v or 0.0 for v in values) / len(values) if values else None

        def share(*names: str) -> float | None:
            return mean([float(o in names) for o in outcomes])

        return cls(
            expressions=len(targeted),
            ceiling=mean([c.ceiling for c in targeted]),
            chosen=mean([c.chosen for c in targeted]),
            final=mean([c.final for c in targeted]),
            chosen_good=share("right", "right, spoilt"),
            passed_over=share("passed over", "passed over, mended"),
            none_there=share("none there", "none there, mended"),
            mended=share("passed over, mended", "none there, mended"),
            spoilt=share("right, spoilt"),
            outcomes={name: outcomes.count(name) for name in OUTCOMES},
        )

    @classmethod
    def together(cls, parts: Sequence[Mapping[str, Any]]) -> "Selection":
        """Figures of several splits, each as `to_dict` gives them, every expression once."""
        total = sum(part["expressions"] for part in parts)

        def mean(name: str) -> float | None:
            return math.fsum((p[name] or 0.0) * p["expressions"] for p in parts) / total if total else None

        figures = {f.name: mean(f.name) for f in fields(cls) if f.name not in ("expressions", "outcomes")}
        outcomes = {name: sum(p["outcomes"][name] for p in parts) for name in OUTCOMES}
        return cls(expressions=total, outcomes=outcomes, **figures)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)
