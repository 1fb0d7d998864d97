"""precompute with store, proposer and mask table on an S3 server that answers 500 and 503, and cuts connections."""

import os
from collections import Counter

import pytest

from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import verify
from pipelines.precompute import Precompute
from tests.noise import image_id, make_proposer, write_store
from tests.pipelines.killing import computed_rows, precompute, rows
from tests.s3 import BUCKET, s3_server, unreliable, use_endpoint

pytestmark = pytest.mark.cluster
IMAGES = 60


def test_a_failing_object_store_costs_no_image_and_nothing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = f"s3://{BUCKET}/masks"
    writes = ["500", "500", "", "503", "503", "", "cut", "", "lost", "", "cut", "lost", "", "500", "503"]
    reads = ["", "503", "500", "", "", "500", "500", "500", "", "503", ""] * 3
    planned = (len(writes), len(reads))
    asked: list[str] = []
    with s3_server() as endpoint:
        store = write_store(f"s3://{BUCKET}/store", range(IMAGES))
        proposer = make_proposer(f"s3://{BUCKET}/proposer").path
        with unreliable(endpoint, writes, reads, asked) as proxy:
            with monkeypatch.context() as patch:
                use_endpoint(patch, proxy)
                often = ("--commit-every", "0.1", "--batch-size", "4", "--actors", "1")
                run = precompute(store.uri, proposer, masks, *often, environment=dict(os.environ))
                try:
                    code = run.wait()
                finally:
                    run.close()
            assert code == 0, run.said[-5:]
            assert planned[0] - len(writes) >= 5
            assert planned[1] - len(reads) >= 5
            assert not [a for a in asked if _lists(a)]
            asked.clear()
            with monkeypatch.context() as patch:  # planning the rerun, as hot as it gets
                use_endpoint(patch, proxy)
                patch.setattr("pipelines.ray_session.connect", lambda: pytest.fail("Ray was started for nothing"))
                assert Precompute(data=store.uri, proposer=proposer, masks=masks).run()["images"] == 0
            assert asked
            assert not [a for a in asked if _lists(a)]
        assert rows(masks) == Counter(image_id(n) for n in range(IMAGES))
        assert computed_rows(masks) == IMAGES
        assert list(verify(MaskTable(masks), store)) == []


def _lists(request: str) -> bool:
    return "list-type" in request or "prefix=" in request
