"""Batches of what waits: as large as the bound allows, in order, each item with its own result."""

import asyncio
from collections.abc import Sequence

import pytest

from pipelines.serving.batching import Batcher


def test_what_gathers_while_a_batch_runs_is_the_next_one_within_the_bound() -> None:
    batches: list[list[int]] = []

    async def run(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await asyncio.sleep(0.01)
        return [10 * item for item in items]

    async def work() -> list[int]:
        batcher = Batcher(run, lambda item: item, most=7)
        return await asyncio.gather(*(batcher(item) for item in (1, 2, 3, 4, 9, 1)))

    assert asyncio.run(work()) == [10, 20, 30, 40, 90, 10]
    assert batches == [[1, 2, 3], [4], [9], [1]]


def test_an_error_is_its_batchs_own_and_who_has_gone_costs_nothing() -> None:
    ran: list[int] = []

    async def run(items: Sequence[int]) -> list[int]:
        ran.extend(items)
        await asyncio.sleep(0.01)
        if 13 in items:
            raise RuntimeError("unlucky")
        return list(items)

    async def work() -> None:
        batcher = Batcher(run, lambda _: 1, most=1)
        bad, gone, good = (asyncio.ensure_future(batcher(item)) for item in (13, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(RuntimeError, match="unlucky"):
            await bad
        assert await good == 3
        assert len(batcher) == 0

    asyncio.run(work())
    assert ran == [13, 3]
