"""What is asked of a version that is to become the champion, and what came out; `promotion` decides it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mail import lineage
from pipelines.registry.comparison import Comparison
from pipelines.registry.models import Version

PASSED = "passed"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is asked of a candidate.

    Attributes:
        splits: compared on, all of them must pass.
        figures: of `mIoU` and `oIoU`, those whose difference must be above `min_gain`.
        min_gain: points (percent), for the lower bound of the difference's interval.
        max_forgotten: points that the upper bound of what is lost on the parent's data must stay below; None: it
            is only shown.
        allow_leaky: why a leaky model may be promoted; None refuses it.
    """

    splits: tuple[str, ...] = ()
    figures: tuple[str, ...] = ("mIoU", "oIoU")
    min_gain: float = -0.5
    max_forgotten: float | None = None
    allow_leaky: str | None = None


@dataclass(kw_only=True)
class Decision:
    """What came out, gate by gate."""

    version: Version
    against: str | None
    terms: Terms
    protocol: str
    gates: dict[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    gained: list[Comparison] = field(default_factory=list)
    forgetting: list[Comparison] = field(default_factory=list)
    smoke: dict[str, Any] | None = None
    leaks: list[str] = field(default_factory=list)
    promoted: bool = False

    def gate(self, name: str, problems: list[str]) -> None:
        self.gates[name] = "; ".join(problems) or PASSED
        self.reasons += [f"{name}: {problem}" for problem in problems]

    def record(self) -> dict[str, Any]:
        return {
            "decision": "promoted" if self.promoted else "refused",
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "version": self.version.version,
            "against": self.against,
            "gates": self.gates,
            "reasons": self.reasons,
            "protocol": self.protocol,
            "figures": list(self.terms.figures),
            "min_gain": self.terms.min_gain,
            "max_forgotten": self.terms.max_forgotten,
            "allow_leaky": self.terms.allow_leaky,
            "splits": {c.split: c.record() for c in self.comparisons},
            "gained": {c.split: c.record() for c in self.gained},
            "forgetting": {c.split: c.record() for c in self.forgetting},
            "smoke_test": self.smoke,
            "code_version": lineage.code_version(),
        }
