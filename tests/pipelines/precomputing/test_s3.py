"""precompute with store, proposer and mask table on an S3 server that answers 500 and 503, and cuts connections."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pytest

from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import verify
from mail.data.store import DataStore
from mail.proposers import load_proposer
from mail.proposers.rows import WorkUnit, decode_unit, propose_rows
from pipelines.precomputing.proposals import Pool
from pipelines.stages.precompute import Precompute
from tests.noise import image_id, make_proposer, write_store
from tests.pipelines.killing import computed_rows, precompute, rows
from tests.s3 import BUCKET, s3_server, unreliable, use_endpoint

pytestmark = pytest.mark.cluster
IMAGES = 60
MASKS = f"s3://{BUCKET}/masks"


class Failing(NamedTuple):
    """A server with a store and a proposer, behind a proxy that fails; the usual variables point to the proxy."""

    store: DataStore
    proposer: str
    writes: list[str]
    reads: list[str]
    asked: list[str]


@contextlib.contextmanager
def failing_server() -> Iterator[Failing]:
    writes = ["500", "500", "", "503", "503", "", "cut", "", "lost", "", "cut", "lost", "", "500", "503"]
    reads = ["", "503", "500", "", "503", "503", "", ""] * 2
    asked: list[str] = []
    with s3_server() as endpoint:
        store = write_store(f"s3://{BUCKET}/store", range(IMAGES))
        proposer = make_proposer(f"s3://{BUCKET}/proposer").path
        with unreliable(endpoint, writes, reads, asked) as proxy:
            with pytest.MonkeyPatch.context() as patch:
                use_endpoint(patch, proxy)
                yield Failing(store, proposer, writes, reads, asked)
            assert rows(MASKS) == Counter(image_id(n) for n in range(IMAGES))
            assert computed_rows(MASKS) == IMAGES
            assert list(verify(MaskTable(MASKS), store)) == []
            listed = [a for a in asked if "list-type" in a or "prefix=" in a]
            assert not [a for a in listed if "prefix=masks%2F_delta_log%2F" not in a], "more than the log was listed"


def proposals_of(units: Sequence[WorkUnit], config: Precompute, pool: Pool) -> Iterator[pa.Table]:
    """What Ray's workers do, here."""
    proposer = load_proposer(config.proposer)
    for unit in units:
        yield propose_rows(proposer, decode_unit(config.data, unit, config.max_pixels))


def test_a_failing_object_store_costs_no_image_and_nothing_but_the_log_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Everything but Ray: planning, decoding, proposing, writing, committing, and planning again."""
    monkeypatch.setattr("pipelines.precomputing.precompute.connect", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr("pipelines.precomputing.precompute.proposals_of", proposals_of)
    monkeypatch.setattr(Pool, "for_cluster", classmethod(lambda cls, *_: cls(1, 2, False, 1.0)))
    monkeypatch.setattr("pipelines.precomputing.sink.FIRST_COMMIT_SECONDS", 0.0)
    with failing_server() as server:
        planned = (len(server.writes), len(server.reads))
        stage = Precompute(data=server.store.uri, proposer=server.proposer, masks=MASKS)
        assert stage.run()["images"] == IMAGES
        assert planned[0] - len(server.writes) >= 10
        assert planned[1] - len(server.reads) >= 12
        assert stage.run()["images"] == 0


@pytest.mark.soak
def test_a_failing_object_store_costs_a_run_on_ray_no_image() -> None:
    with failing_server() as server:
        planned = (len(server.writes), len(server.reads))
        often = ("--commit-every", "0.1", "--batch-size", "4", "--actors", "1")
        run = precompute(server.store.uri, server.proposer, MASKS, *often, environment=dict(os.environ))
        try:
            assert run.wait() == 0, run.said[-5:]
        finally:
            run.close()
        assert planned[0] - len(server.writes) >= 5
        assert planned[1] - len(server.reads) >= 5
