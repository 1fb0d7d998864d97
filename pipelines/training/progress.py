"""From the workers to the person, to MLflow and to Prometheus: what happened in training, told by the driver.

Rank 0 sends to an actor on the driver's node, without waiting for it; a thread of the driver takes from there. (Ray
Train's own `report` is a barrier that the controller looks at every two seconds: it is kept for checkpoints.)
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from mail.training.curves import Curves, Record
from pipelines.registry.run_log import RunLog
from pipelines.terminal import Advance, duration, say
from pipelines.training.prometheus import Gauges

ASK_SECONDS = 0.5


class Mailbox:
    """Holds events until the driver takes them; an actor, or an object where there is no Ray."""

    def __init__(self) -> None:
        self._events: deque[tuple] = deque()
        self._ending = False

    def put(self, kind: str, *values: Any) -> None:
        """An event; `Progress` has a method for each kind."""
        self._events.append((kind, *values))

    def take(self) -> list[tuple]:
        return [self._events.popleft() for _ in range(len(self._events))]

    def end(self) -> None:
        """Asks the workers to save a checkpoint and to stop."""
        self._ending = True

    def is_ending(self) -> bool:
        return self._ending


def remote_put(actor: Any, run: str) -> Callable[..., None]:
    """A mailbox's `put` for a worker elsewhere; it does not wait for the actor. Figures also go to Prometheus."""
    gauges = Gauges(run)

    def put(kind: str, *values: Any) -> None:
        actor.put.remote(kind, *values)
        if kind in ("steps", "validation"):
            getattr(gauges, kind)(*values)

    return put


def remote_ending(actor: Any, rank: int, world: int, device: Any) -> Callable[[], bool]:
    """Whether the driver asked the workers to stop, as far as is known without waiting for its mailbox.

    All ranks ask equally often; rank 0 tells the others.
    """
    import ray
    import torch

    if rank == 0:
        known, asked, at = False, actor.is_ending.remote(), time.monotonic()

    def of_rank_zero() -> bool:
        nonlocal known, asked, at
        if not known and time.monotonic() - at > ASK_SECONDS and ray.wait([asked], timeout=0)[0]:
            known, asked, at = ray.get(asked), actor.is_ending.remote(), time.monotonic()
        return known

    def agreed() -> bool:
        answer = torch.tensor(float(rank == 0 and of_rank_zero()), device=device)
        torch.distributed.broadcast(answer, 0)
        return bool(answer)

    return of_rank_zero if world == 1 else agreed  # a tensor would make the processor wait for the GPU


def start_mailbox() -> tuple[Any, Callable[[], list[tuple]]]:
    """A mailbox actor, beside the driver so that it lives as long as the driver does, and how to take from it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(Mailbox)
    actor = remote.options(num_cpus=0, scheduling_strategy=here).remote()
    return actor, lambda: ray.get(actor.take.remote(), timeout=20)


class Follower:
    """Takes events from a mailbox until its block ends, in a thread: of kind K to the method `_on_K`.

    Attributes:
        last: the newest figures of a step.
    """

    def __init__(self, take: Callable[[], list[tuple]], steps: int):
        self.last: dict[str, Any] = {}
        self._take, self._steps = take, steps
        self._advance = Advance("steps", steps)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._advance.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._advance.__exit__(None, None, None)

    def _work(self) -> None:
        while True:
            ending = self._stop.is_set()  # what was sent before the end is still taken
            try:
                events = self._take()
            except Exception:
                events = []  # Ray is going down: the training itself says why
            for kind, *values in events:
                getattr(self, f"_on_{kind}")(*values)
            if ending:
                return
            self._stop.wait(0.5)

    def _on_note(self, line: str) -> None:
        say(line)


class Progress(Follower):
    """Takes events from the mailbox, says them every few seconds and logs all of them.

    Args:
        saved: is called after each checkpoint, validated with each validation's record, drawn with the step of new
            pictures, in the thread of the progress.

    Attributes:
        scores: the newest validation's. moved: whether a step was taken since.
    """

    def __init__(
        self,
        take: Callable[[], list[tuple]],
        log: RunLog,
        steps: int,
        saved: Callable[[], Any],
        validated: Callable[[Record], None] | None,
        drawn: Callable[[int], None],
    ):
        super().__init__(take, steps)
        self._log = log
        self._saved, self._validated, self._on_overlays = saved, validated, drawn
        self.scores: Record = {}
        self.moved = False
        self._fresh = True  # the first step after a start is told at once
        self._begun: tuple[float, float] | None = None

    def _on_begun(self, step: int, world: int, curves: Curves) -> None:
        for kind, records in curves.by_kind():  # what a driver that was killed, or a worker, did not get to say
            self._log.metrics(records, f"{kind}/")
            if kind == "validation":
                self.scores = figures(records[-1])
            elif kind == "train":
                self.last = figures(records[-1], "time")
        self._fresh = True
        say(f"{world} worker(s) train from step {step} on", event="begun", step=step, workers=world)

    def _on_saved(self, step: int) -> None:
        try:
            self._saved()
        except Exception as error:  # the store is away: the next checkpoint's turn
            say(f"older checkpoints stay for now: {error}")

    def _on_lost(self, reasons: dict[str, str]) -> None:
        for rank, reason in reasons.items():
            say(f"worker {rank} was lost: {reason}", event="lost", rank=rank, reason=reason)

    def _on_steps(self, records: list[Record], lap: Record) -> None:
        self._log.metrics(records, "train/")
        self._log.metrics([lap], "speed/")
        self.last, self.moved = figures(records[-1], "time"), True
        now, step = time.monotonic(), self.last["step"]
        if self._begun is None or step <= self._begun[1]:
            self._begun = (now, step)
        fresh, self._fresh = self._fresh, False
        pace = (step - self._begun[1]) / max(now - self._begun[0], 1e-9)  # steps a second
        left = f", {duration((self._steps - step) / pace)} left" if pace and step < self._steps else ""
        beside = (
            f"loss {self.last['loss']:.3f}, {lap['images_per_second']:.0f} images/s, "
            f"{lap['expressions_per_second']:.0f} expressions/s, {lap['waiting_for_data']:.0%} waiting for data"
        )
        line = f"step {step:.0f}/{self._steps}: {beside}{left}"
        self._advance(int(step), beside, pace, line, fresh, event="step", **self.last, **figures(lap))

    def _on_validation(self, scores: Record) -> None:
        self.scores = figures(scores)
        self._log.metrics([scores], "validation/")
        if self._validated is not None:
            self._validated(figures(scores, "time"))
        say(
            f"step {scores['step']}: validation oIoU {scores['oIoU']:.3f}, mIoU {scores['mIoU']:.3f} "
            f"({scores['expressions']})",
            event="validation",
            step=scores["step"],
            **self.scores,
        )


def figures(record: Record, *without: str) -> Record:
    """A record without the keys that say what it belongs to, or without others."""
    return {k: v for k, v in record.items() if k not in (without or ("step", "time"))}
