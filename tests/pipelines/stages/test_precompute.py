"""precompute and masks: exactly one row an image, whatever is wrong with it, however often a run is killed."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from mail.data.mask_table import MaskTable
from mail.errors import UserError
from mail.proposers.rows import plan_units
from pipelines.precomputing.proposals import Pool, proposals_of
from pipelines.stages.masks import MasksGc, MasksRetry, MasksStatus, MasksVerify
from pipelines.stages.precompute import Precompute
from tests.mask_rows import ids, mask_rows
from tests.noise import TRUNCATED, make_proposer, set_seen, write_store


@pytest.fixture(scope="module")
def proposer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_proposer(tmp_path_factory.mktemp("proposer")).path


def rows(masks: Path, proposer_id: str | None = None) -> Counter[str]:
    return Counter(r["image_id"] for r in MaskTable(masks).snapshot(proposer_id).rows(["image_id"]))


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("pipelines.precomputing.precompute.connect", refuse)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_rerunning_computes_only_what_is_new(
    tmp_path: Path,
    proposer: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    put_mlflow: Callable[[Path], None],
) -> None:
    put_mlflow(tmp_path / "mlflow.db")
    store = write_store(tmp_path / "store", range(20))
    stage = Precompute(data=store.uri, proposer=proposer, masks=str(tmp_path / "masks"), batch_size=2)
    assert stage.plan()["pending"] == 20
    first = stage.run()
    assert first["statuses"] == {"ok": 19, "decode_error": 1}
    assert set(rows(tmp_path / "masks").values()) == {1}
    (bad,) = MaskTable(tmp_path / "masks").snapshot().read([f"coco/{TRUNCATED:04d}"]).to_pylist()
    assert bad["status"] == "decode_error"
    assert bad["error"]

    with monkeypatch.context() as patch:
        patch.setattr(
            "pipelines.precomputing.precompute.connect", lambda **_: pytest.fail("Ray was started for nothing")
        )
        again = stage.run()
    assert (again["images"], again["digest"]) == (0, first["digest"])
    assert "all 20 images have masks" in capsys.readouterr().out

    more = write_store(tmp_path / "more", range(15, 30))
    added = Precompute(data=more.uri, proposer=proposer, masks=str(tmp_path / "masks")).run()
    assert added["images"] == 10
    assert rows(tmp_path / "masks") == Counter(f"coco/{n:04d}" for n in range(30))

    MasksVerify(masks=str(tmp_path / "masks"), data=store.uri).run()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    report = tmp_path / "status.json"
    MasksStatus(masks=str(tmp_path / "masks"), data=more.uri, against=more.uri, json=str(report)).run()
    content = json.loads(report.read_text())
    assert content["pending"] == 0
    entry = content["proposers"][first["proposer_id"]]
    assert entry["statuses"] == {"decode_error": 1, "ok": 29}
    assert 0 < entry["seconds_per_image"] < 60

    retried = MasksRetry(data=store.uri, proposer=proposer, masks=str(tmp_path / "masks")).run()
    assert retried["images"] == 1
    assert rows(tmp_path / "masks") == Counter(f"coco/{n:04d}" for n in range(30))
    assert MasksGc(masks=str(tmp_path / "masks")).run() == []


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_other_thresholds_and_too_many_errors(tmp_path: Path, proposer: str) -> None:
    store = write_store(tmp_path / "store", range(6))
    masks = str(tmp_path / "masks")
    stage = Precompute(data=store.uri, proposer=proposer, masks=masks, max_instances=1, max_error_rate=0.1)
    with pytest.raises(UserError, match="1 of 6 images could not be used"):
        stage.run()
    assert len(rows(tmp_path / "masks")) == 6
    found = MaskTable(masks).snapshot().rows()
    assert max(len(r["instances"]) for r in found) == 1
    assert Precompute(data=store.uri, proposer=proposer, masks=masks).plan()["pending"] == 6


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_pasting_in_tasks_of_its_own_gives_the_same_rows(tmp_path: Path, proposer: str) -> None:
    """As beside a GPU, where the network's process does nothing else."""
    store = write_store(tmp_path / "store", range(20))
    stage = Precompute(data=store.uri, proposer=proposer, masks=str(tmp_path / "masks"), max_instances=2)
    units = list(plan_units(store, store.image_index["image_id"].combine_chunks(), 8))
    pools = [Pool(1, 4, False, 0.5), Pool(1, 4, False, 0.5, apart=True, calls=2)]
    found = [pa.concat_tables(proposals_of(units, stage, pool)).sort_by("image_id") for pool in pools]
    assert len(found[0]) == 20
    assert found[1].drop_columns("instances").equals(found[0].drop_columns("instances"))
    for one, other in zip(found[0]["instances"].to_pylist(), found[1]["instances"].to_pylist(), strict=True):
        # which images share a batch is chance, and with it the last digits
        assert [i["score"] for i in one] == pytest.approx([i["score"] for i in other], abs=1e-3)


def test_beside_a_gpu_ray_is_asked_for_no_cores() -> None:
    """It warns of whoever asks for both, and reserves one by itself."""
    options = Pool(2, 8, on_gpu=True, cpus_per_actor=None, calls=2).options(units=1)
    compute = options.pop("compute")
    assert (compute.max_size, compute.max_concurrent_calls_per_actor, compute.enable_true_multi_threading) == (
        1,
        2,
        True,
    )
    assert options == {"num_gpus": 1}


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_reads_the_table_as_we_do(tmp_path: Path) -> None:
    import ray

    table = MaskTable(tmp_path)
    table.commit([table.write(mask_rows(ids(1, 2), status="decode_error"))], {"id": "p-1"})
    table.commit([table.write(mask_rows(ids(3, 4)))], {"id": "p-1"})
    table.commit([table.write(mask_rows(ids(2)))], {"id": "p-1"}, replace=True)
    found = ray.data.read_parquet(DeltaTable(str(tmp_path)).file_uris()).take_all()
    expected = [{**row, "proposer_id": "p-1"} for row in table.snapshot().rows()]
    assert sorted(found, key=lambda r: r["image_id"]) == sorted(expected, key=lambda r: r["image_id"])


@pytest.mark.usefixtures("no_ray")
def test_leaky_proposers_are_refused_before_anything_starts(tmp_path: Path, proposer: str) -> None:
    store = write_store(tmp_path / "store", range(2))
    folder = tmp_path / "proposer"
    folder.mkdir()
    for path in Path(proposer).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    set_seen(folder, ["coco/0001"])
    with pytest.raises(UserError, match="1 of 2 of val"):
        Precompute(data=store.uri, proposer=str(folder), masks=str(tmp_path / "m")).run()
    set_seen(folder, None)
    with pytest.raises(UserError, match="nobody knows"):
        Precompute(data=store.uri, proposer=str(folder), masks=str(tmp_path / "m")).plan()
    allowed = Precompute(data=store.uri, proposer=str(folder), masks=str(tmp_path / "m"), allow_leaky=True)
    assert allowed.plan()["leaky"] is True
    assert not (tmp_path / "m").exists()


def test_weights_that_are_not_the_proposers_are_found_before_ray_starts(
    tmp_path: Path, proposer: str, no_ray: None
) -> None:
    store = write_store(tmp_path / "store", range(4))
    damaged = shutil.copytree(proposer, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is not the file that proposer"):
        Precompute(data=store.uri, proposer=str(damaged), masks=str(tmp_path / "m")).run()
    description = json.loads((damaged / "proposer.json").read_text())
    description["network"]["depth"] = 3
    (damaged / "proposer.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"proposer\.json is damaged"):
        Precompute(data=store.uri, proposer=str(damaged), masks=str(tmp_path / "m")).run()
    del description["sha256"]  # whole, but another program's
    (damaged / "proposer.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"proposer\.json is not one of this program's: .*depth"):
        Precompute(data=store.uri, proposer=str(damaged), masks=str(tmp_path / "m")).run()
    with pytest.raises(UserError, match=r"store\.json is a file, not a folder"):
        Precompute(data=store.uri, proposer=proposer, masks=f"{store.uri}/store.json/m").run()


def test_what_is_not_there_is_said(tmp_path: Path, proposer: str) -> None:
    with pytest.raises(UserError, match="is not a data store"):
        Precompute(data=str(tmp_path), proposer=proposer, masks=str(tmp_path / "m")).plan()
    with pytest.raises(UserError, match="is not a proposer"):
        Precompute(data=str(tmp_path), proposer=str(tmp_path), masks=str(tmp_path / "m")).plan()
    with pytest.raises(UserError, match="is not a mask table"):
        MasksStatus(masks=str(tmp_path)).run()
