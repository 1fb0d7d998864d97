"""A wrong input that only a worker can meet ends the run at once, with its line, and leaves the name free."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mail.errors import UserError
from pipelines.registry.client import connect, experiment
from pipelines.stages.train import Train
from pipelines.training.config import ModelOverrides
from tests.boxes import Boxes, make_boxes
from tests.pipelines.stages.test_train import MICRO

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Boxes:
    return make_boxes(tmp_path_factory.mktemp("boxes"))


def break_photo(store: str, image_id: str) -> None:
    """Cuts a photo short behind the back of a mask table that knows it as whole."""
    (path,) = Path(store, "images").glob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        if row["image_id"] == image_id:
            row["image"] = row["image"][:200]
    pq.write_table(type(table).from_pylist(rows, table.schema), path)


@pytest.mark.soak  # two workers, and Ray's health checks fail where the machine is busy
@pytest.mark.usefixtures("ray_cluster")
def test_a_photo_that_one_of_two_workers_cannot_use_ends_the_run_once(boxes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(boxes.store_uri, tmp_path / "broken")
    break_photo("broken", "boxes/0001")
    values = {"preset": "tiny", "masks": boxes.masks_uri, "name": "run", "workers": 2, "steps": 2, "threads": 1}
    values |= {"global_batch_size": 132, "log_every": 1, "register": False, "validation_expressions": 0}
    model = ModelOverrides(**MICRO)

    with pytest.raises(UserError, match=r"image boxes/0001 of .* cannot be decoded \(.*give that as --masks"):
        # all photos are in the first step: one worker meets it, the other waits for that one's gradients
        Train(**values, data="broken", model=model).run()
    said = capsys.readouterr().err
    assert said.count("train from step 0 on") == 1  # however many failures --max-failures allows
    assert "was lost" not in said
    (failed,) = connect().search_runs([experiment(connect())])
    assert failed.info.status == "FAILED"
    assert not any(path.is_file() for path in (tmp_path / "runs").rglob("*"))

    # the same name again, without --resume
    assert Train(**(values | {"workers": 0}), data=boxes.store_uri, model=model).run()["steps"] == 2
