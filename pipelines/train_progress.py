"""From the workers to the person and to MLflow: what happened in training, told by the driver.

Rank 0 sends to an actor on the driver's node, without waiting for it; a thread of the driver takes from there. (Ray
Train's own `report` is a barrier that the controller looks at every two seconds: it is kept for checkpoints.)
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pipelines.run_log import RunLog
from pipelines.stage import say

SAY_SECONDS = 5.0


class Mailbox:
    """Holds events until the driver takes them; an actor, or an object where there is no Ray."""

    def __init__(self) -> None:
        self._events: deque[tuple] = deque()

    def steps(self, records: list[dict[str, float]], lap: dict[str, float]) -> None:
        self._events.append(("steps", records, lap))

    def validation(self, step: int, scores: dict[str, float]) -> None:
        self._events.append(("validation", step, scores))

    def take(self) -> list[tuple]:
        return [self._events.popleft() for _ in range(len(self._events))]


class RemoteLog:
    """The same methods for a worker elsewhere; it does not wait for the actor."""

    def __init__(self, actor: Any):
        self._actor = actor

    def steps(self, records: list[dict[str, float]], lap: dict[str, float]) -> None:
        self._actor.steps.remote(records, lap)

    def validation(self, step: int, scores: dict[str, float]) -> None:
        self._actor.validation.remote(step, scores)


def start_mailbox() -> tuple[Any, Callable[[], list[tuple]]]:
    """A mailbox actor, beside the driver so that it lives as long as the driver does, and how to take from it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(Mailbox)
    actor = remote.options(num_cpus=0, scheduling_strategy=here).remote()
    return actor, lambda: ray.get(actor.take.remote(), timeout=20)


class Progress:
    """Takes events from the mailbox, says them every few seconds and logs all of them.

    Attributes:
        last: the newest step's record. scores: the newest validation's.
    """

    def __init__(self, take: Callable[[], list[tuple]], log: RunLog | None, steps: int):
        self._take, self._log, self._steps = take, log, steps
        self.last: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self._said = 0.0
        self._begun: tuple[float, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _work(self) -> None:
        while True:
            ending = self._stop.is_set()  # what was sent before the end is still taken
            try:
                events = self._take()
            except Exception:
                events = []  # Ray is going down: the training itself says why
            for event in events:
                (self._steps_event if event[0] == "steps" else self._validation_event)(*event[1:])
            if ending:
                return
            self._stop.wait(0.5)

    def _steps_event(self, records: list[dict[str, float]], lap: dict[str, float]) -> None:
        if self._log is not None:
            self._log.metrics(records, "train/")
            self._log.metrics([{"step": records[-1]["step"], **lap}], "speed/")
        self.last = records[-1]
        now, step = time.monotonic(), self.last["step"]
        if self._begun is None or step <= self._begun[1]:
            self._begun = (now, step)
        if now - self._said < SAY_SECONDS and step < self._steps:
            return
        self._said = now
        pace = (now - self._begun[0]) / max(step - self._begun[1], 1)
        left = f", {_minutes(pace * (self._steps - step))} left" if step > self._begun[1] and step < self._steps else ""
        say(
            f"step {step:.0f}/{self._steps}: loss {self.last['loss']:.3f}, {lap['images_per_second']:.0f} images/s, "
            f"{lap['expressions_per_second']:.0f} expressions/s, {lap['waiting_for_data']:.0%} waiting for data{left}"
        )

    def _validation_event(self, step: int, scores: dict[str, float]) -> None:
        self.scores = scores
        if self._log is not None:
            self._log.metrics([{"step": step, **scores}], "validation/")
        say(f"step {step}: validation oIoU {scores['oIoU']:.3f}, mIoU {scores['mIoU']:.3f} ({scores['expressions']})")


def _minutes(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d} h" if hours else f"{rest // 60}:{rest % 60:02d} min"
