"""Corrections on an object store, over HTTP: each whole or not there, and what `prepare custom` reads."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow.fs import FileSelector

from mail import rle
from mail.data import files
from mail.data.store import DataStore
from pipelines.cli import parse
from pipelines.serving.corrections import Corrections
from pipelines.serving.refused import Refused
from tests.s3 import BUCKET, s3_server, unreliable, use_endpoint

PLACE = f"s3://{BUCKET}/kept/corrections"
MODEL = {"name": "mail-ris", "version": "3", "digest": "0" * 64}


@pytest.fixture
def server() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


def photo(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_corrections_on_an_object_store_are_what_prepare_custom_reads(server: str, tmp_path: Path) -> None:
    corrections, expected = Corrections(PLACE), {}
    corrections.check()
    for number in range(5):
        mask = np.zeros((40, 60), bool)
        mask[number : number + 9, 5:30] = True
        corrections.keep(photo(number), "the thing", None, MODEL)
        corrections.keep(photo(number), "the thing", rle.encode(mask), MODEL)  # corrects the correction
        corrections.keep(photo(number), f"a camel in {number}", None, MODEL)
        expected |= {f"the thing {number}": mask, f"a camel in {number}": np.zeros((40, 60), bool)}
    parse(["prepare", "custom", "--expressions", PLACE, "--out", str(tmp_path / "store")]).execute()
    rows = DataStore(str(tmp_path / "store")).expressions().to_pylist()
    assert len(rows) == len(expected) == 10
    found = sorted(rle.decode(row["target"]).tobytes() for row in rows)
    assert found == sorted(mask.tobytes() for mask in expected.values())
    assert [row["no_target"] for row in rows].count(True) == 5


def test_a_store_that_fails_now_and_then_costs_no_correction(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"s3://{BUCKET}/another/place"
    asked: list[str] = []
    with unreliable(server, ["lost", "cut", "503"], asked=asked) as proxy:
        use_endpoint(monkeypatch, proxy)
        kept = Corrections(place).keep(photo(0), "the thing", None, MODEL)
    assert len([line for line in asked if "PUT" in line]) > 2, "what went wrong was tried again"
    use_endpoint(monkeypatch, server)
    filesystem, path = files.resolve(place)
    there = [info for info in filesystem.get_file_info(FileSelector(path, recursive=True)) if info.is_file]
    assert sorted(info.extension for info in there) == ["jsonl", "png"]
    assert files.exists(filesystem, f"{path}/{kept}.jsonl")


def test_a_disk_that_takes_nothing_costs_a_correction_and_says_so(tmp_path: Path) -> None:
    corrections = Corrections(str(tmp_path / "kept"))
    (tmp_path / "kept").write_text("no folder")
    with pytest.raises(Refused, match="send it again later") as refused:
        corrections.keep(photo(0), "the thing", None, MODEL)
    assert (refused.value.status, refused.value.retry_after) == (503, 20)
