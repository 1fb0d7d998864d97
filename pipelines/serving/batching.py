"""Puts together what waits: while one batch runs, requests gather; the next batch takes as many as its bound allows.

Ray Serve's own `@serve.batch` closes a batch as soon as its time is over, also while another one runs: without a time
to wait every request is a batch of its own under load, with one even a single client waits for it in vain.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs one batch at a time, first come, first served.

    Args:
        run: answers a batch, one result an item. What it raises, each item of the batch raises.
        cost: of an item. most: cost of a batch; an item that alone costs more is a batch of its own.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], cost: Callable[[Item], int], most: int
    ):
        self._run, self._cost, self._most = run, cost, most
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    async def __call__(self, item: Item) -> Result:
        """The item's result."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while batch := self._next():
            try:
                results = await self._run([item for item, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():  # whoever asked may have gone
                    future.set_result(result)

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        left = self._most
        while self._waiting and (not batch or self._cost(self._waiting[0][0]) <= left):
            item, future = self._waiting.popleft()
            if future.cancelled():
                continue
            left -= self._cost(item)
            batch.append((item, future))
        return batch
