"""What a training tells Ray's Prometheus endpoint (`ray_mail_train_*`); `cluster/grafana/` draws it.

Every series has the label `run`. Ray exports them from each node's metrics port, beside its own.
"""

from typing import Any

from mail.training.curves import Record

GAUGES = {
    "step": "Optimizer steps done",
    "loss": "Loss of the newest step",
    "learning_rate": "Learning rate of the newest step",
    "gradient_norm": "Norm of the newest gradient before it was clipped",
    "images_per_second": "Images a second, all workers",
    "expressions_per_second": "Referring expressions (samples) a second, all workers",
    "waiting_for_data": "Starvation: share of the step time spent waiting for input",
    "gpu_memory_gb": "Largest GPU memory in use on rank 0, GiB",
    "mfu": "Share of the GPU's peak that the network's own operations reach",
    "oIoU": "Newest validation",
    "mIoU": "Newest validation",
}


COUNTERS = {
    "mail_train_expressions_total": "Expressions trained on, also those that were computed again after a loss",
    "mail_train_errors_total": "Lost train workers, by reason",
}


class Gauges:
    """The figures of one run, set by rank 0."""

    def __init__(self, run: str):
        from ray.util.metrics import Counter, Gauge

        self._tags = {"run": run}
        self._gauges: dict[str, Any] = {
            key: Gauge(f"mail_train_{key.lower()}", description=text, tag_keys=("run",)) for key, text in GAUGES.items()
        }
        name = "mail_train_expressions_total"
        self._seen: Any = Counter(name, description=COUNTERS[name], tag_keys=("run",))

    def steps(self, records: list[Record], lap: Record) -> None:
        self._set(records[-1])
        self._set(lap)
        self._seen.inc(lap["expressions"], tags=self._tags)

    def validation(self, scores: Record) -> None:
        self._set(scores)

    def _set(self, record: Record) -> None:
        for key, value in record.items():
            if key in self._gauges:
                self._gauges[key].set(value, tags=self._tags)


def count_errors(run: str, reasons: dict[str, str]) -> None:
    """Counts lost workers by reason; called where a process outlives them."""
    from ray.util.metrics import Counter

    name = "mail_train_errors_total"
    counter = Counter(name, description=COUNTERS[name], tag_keys=("run", "reason"))
    for reason in reasons.values():
        counter.inc(1, tags={"run": run, "reason": reason.split(":", 1)[0]})
