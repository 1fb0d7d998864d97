"""The gates of a promotion, with real evaluations, a real registry and a fresh process that uses the model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mail import lineage
from mail.errors import UserError
from pipelines.__main__ import main
from pipelines.registry.client import connect
from pipelines.registry.models import CHAMPION, Version, download, find_version
from pipelines.registry.promotion import champion, decisions, rollback
from pipelines.stages.evaluate import Evaluate
from pipelines.stages.models import MODELS, Promote
from tests.boxes import Boxes, make_boxes
from tests.registry import make_registered

NAME = "mail-ris"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, put_mlflow: Callable[[Path], None]) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    put_mlflow(folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def boxes(folder: Path) -> Boxes:
    return make_boxes(folder / "boxes", images=48)


@pytest.fixture
def mlflow_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")


@pytest.fixture(scope="module")
def versions(folder: Path, boxes: Boxes) -> dict[str, Version]:
    """A model whose first version finds something and whose second one never does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        return {
            "finds": make_registered(folder / "finds" / "model", boxes, NAME),
            "blind": make_registered(folder / "blind" / "model", boxes, NAME, finds=False),
        }


def number(version: Version) -> str:
    return f"models:/{version.name}/{version.version}"


def last_decision(version: Version) -> dict[str, Any]:
    return decisions(find_version(number(version)))[-1]


def make_champion(version: Version) -> None:
    connect().set_registered_model_alias(version.name, CHAMPION, version.version)


def on_boxes(version: Version, boxes: Boxes, tmp_path: Path, **settings: Any) -> Promote:
    given = {"split": ("val", "testA"), "data": boxes.store_uri, "masks": boxes.masks_uri, "workers": 0}
    return Promote(model=number(version), out=tmp_path / "promotions", **(given | settings))


@pytest.mark.cluster
def test_the_first_champion_passes_every_gate_but_the_comparison(mlflow_here, boxes: Boxes, folder: Path):
    """This one is leaky, and nobody knows what its proposer saw, which takes a reason."""
    leaks = [{"ingredient": "proposer p", "split": "val", "images": 3, "of": 6}]
    unknown = {"id": boxes.masks.proposer_id, "trained_on": None}
    version = make_registered(folder / "first" / "model", boxes, "first", leaky=True, leaks=leaks, proposer=unknown)
    with pytest.raises(UserError, match="label: the model is leaky: proposer p saw 3 of the 6 images of val"):
        Promote(model=version.version, name="first").run()
    assert last_decision(version)["reasons"][1] == (
        "label: images that the proposer saw was not recorded (--allow-leaky REASON)"
    )
    assert last_decision(version)["decision"] == "refused"
    with pytest.raises(UserError, match="needs the reason"):
        Promote(model=version.version, name="first", allow_leaky=" ").run()
    Promote(model=version.version, name="first", allow_leaky="shown on purpose").run()
    assert champion("first") is not None
    found = last_decision(version)
    assert (found["decision"], found["against"], found["allow_leaky"]) == ("promoted", None, "shown on purpose")
    assert found["gates"].pop("label").endswith("was not recorded; allowed: shown on purpose")
    alone = {"comparison": "no champion to compare with"}
    alone |= dict.fromkeys(("parent", "forgetting"), "it goes on from no other model")
    assert found["gates"] == {"lineage": "passed", **alone, "smoke test": "passed"}
    # it was the model's own code and proposer, in a process that knew no checkout
    assert "mlruns" in found["smoke_test"]["code"]
    assert [a["text"] for a in found["smoke_test"]["answers"]] == ["the red box on the left", "the circle"]
    assert find_version(number(version)).tags["leaky"] == "true"
    assert find_version(number(version)).tags["leaky.allowed"] == "shown on purpose"
    described = connect().get_model_version("first", version.version).description
    assert described.startswith("Promoted although leaky (the model is leaky: proposer p saw 3 of the 6 images of val")
    assert described.endswith("): shown on purpose")


def test_a_candidate_that_is_worse_is_refused_with_its_figures(mlflow_here, boxes: Boxes, versions, tmp_path: Path):
    make_champion(versions["finds"])
    with pytest.raises(UserError, match=r"not promoted: comparison: mIoU on val may be -.* points from version 1"):
        on_boxes(versions["blind"], boxes, tmp_path).run()
    assert champion().version == versions["finds"].version
    found = last_decision(versions["blind"])
    assert (found["decision"], found["against"]) == ("refused", versions["finds"].version)
    assert (found["protocol"], found["min_gain"], found["figures"]) == ("original", -0.5, ["mIoU", "oIoU"])
    for split in ("val", "testA"):
        figures = found["splits"][split]
        assert figures["data_store"]["digest"] == boxes.store.digest
        assert figures["candidate"]["expressions"] == boxes.store.splits[split]["expressions"]
        difference = figures["difference"]["oIoU"]
        assert difference["lower"] <= difference["candidate"] - difference["baseline"] < -0.005
    assert found["gates"]["smoke test"] == "not tried"


@pytest.mark.cluster
def test_a_clear_gain_is_promoted_and_rolled_back(mlflow_here, boxes: Boxes, versions, tmp_path: Path, capsys):
    make_champion(versions["blind"])
    on_boxes(versions["finds"], boxes, tmp_path, min_gain=0.0, split="val").run()
    printed = capsys.readouterr().out
    for part in ("protocol original", "boxes / val", boxes.store.digest[:12], "paired bootstrap"):
        assert part in printed
    assert champion().version == versions["finds"].version
    assert last_decision(versions["finds"])["splits"]["val"]["difference"]["mIoU"]["lower"] > 0
    assert rollback()[1].version == versions["blind"].version
    MODELS["show"](model=number(versions["finds"])).run()
    shown = capsys.readouterr().out
    assert f"promoted against version {versions['blind'].version}" in shown
    assert f"expressions, protocol original, data store boxes {boxes.store.digest[:12]})" in shown


def test_a_fine_tuned_model_is_compared_with_its_parent_on_the_data_of_both(
    mlflow_here, boxes, folder, versions, tmp_path
):
    """The champion is another model here, which is no better."""
    parent = download(versions["finds"])
    known = {**lineage.read(parent), "address": number(versions["finds"]), "digest": lineage.model_digest(parent)}
    own = make_boxes(tmp_path / "own", images=32)
    make_champion(make_registered(folder / "other" / "model", own, "tuned", finds=False))
    child = make_registered(folder / "child" / "model", own, "tuned", finds=False, bundled=False, parent=known)
    here = {"split": "testA", "data": own.store_uri, "masks": own.masks_uri, "workers": 0}
    out = {"name": "tuned", "out": tmp_path / "promotions", **here}
    with pytest.raises(UserError, match=r"parent: mIoU on testA may be -.* points from the model that it goes on from"):
        Promote(model=child.version, **out).run()
    found = last_decision(child)
    gained = found["gained"]["testA"]
    assert (found["gates"]["comparison"], found["gates"]["forgetting"]) == ("passed", "not tried")
    assert gained["data_store"]["digest"] == own.store.digest
    won = gained["difference"]["mIoU"]
    assert (won["candidate"], won["difference"]) == (0.0, -won["baseline"])

    with pytest.raises(UserError, match=r"forgetting: mIoU on testA of boxes may have lost \d+\.\d+ points, 2 are"):
        Promote(model=child.version, max_forgotten=2.0, min_gain=-100.0, **out).run()
    found = last_decision(child)
    assert found["forgetting"]["testA"]["data_store"]["digest"] == boxes.store.digest
    lost = found["forgetting"]["testA"]["difference"]["mIoU"]
    assert (lost["candidate"], lost["difference"]) == (0.0, -lost["baseline"])
    assert (found["max_forgotten"], found["gates"]["smoke test"]) == (2.0, "not tried")
    with pytest.raises(UserError, match="smoke test: no proposer is bundled"):  # the next gate
        Promote(model=child.version, min_gain=-100.0, **out).run()
    assert last_decision(child)["gates"]["forgetting"] == "shown only (--max-forgotten asks for more)"


def test_evaluations_are_used_again_and_known_by_the_model_not_by_its_name(
    mlflow_here, boxes: Boxes, versions, folder: Path, tmp_path: Path
):
    for name in ("finds", "blind"):  # of the folders that were registered
        evaluate(folder / name / "model", boxes, tmp_path / "evaluations" / name / "val")
    make_champion(versions["finds"])
    stage = Promote(model=number(versions["blind"]), split="val", evaluations=tmp_path / "evaluations", out=tmp_path)
    assert stage.plan()["to_evaluate"] == []
    with pytest.raises(UserError, match="comparison: mIoU on val"):
        stage.run()
    used = last_decision(versions["blind"])["splits"]["val"]
    assert used["candidate"]["evaluation"].endswith("evaluations/blind/val")


def test_evaluations_of_different_data_stores_are_refused_and_recorded(
    mlflow_here, boxes: Boxes, versions, folder: Path, tmp_path: Path
):
    other = make_boxes(tmp_path / "other", images=32)
    evaluate(folder / "finds" / "model", boxes, tmp_path / "ours", protocol="rela")
    evaluate(folder / "blind" / "model", other, tmp_path / "theirs", protocol="rela")
    make_champion(versions["finds"])
    stage = Promote(
        model=number(versions["blind"]),
        split="val",
        protocol="rela",
        evaluations=(tmp_path / "ours", tmp_path / "theirs"),
        out=tmp_path,
    )
    with pytest.raises(UserError, match=f"different data stores.* boxes {other.store.digest[:12]}"):
        stage.run()
    assert last_decision(versions["blind"])["decision"] == "refused"
    assert last_decision(versions["blind"])["protocol"] == "rela"


def test_an_evaluation_without_the_models_own_proposals_does_not_count(
    mlflow_here, boxes: Boxes, versions, folder: Path, tmp_path: Path
):
    make_champion(versions["finds"])
    bare = Evaluate(
        model=str(folder / "finds" / "model"),
        data=boxes.store_uri,
        split="testA",
        out=tmp_path / "bare",
        protocol="rela",
        no_proposals=True,
        workers=0,
    )
    bare.run()  # would be a handicap for the champion
    stage = Promote(model=number(versions["blind"]), split="testA", protocol="rela", evaluations=bare.out, out=tmp_path)
    assert stage.plan()["to_evaluate"] == ["2 on testA", "1 on testA"]


def test_an_evaluation_that_lost_expressions_is_refused(
    mlflow_here, boxes: Boxes, versions, folder: Path, tmp_path: Path
):
    for name in ("finds", "blind"):
        evaluate(folder / name / "model", boxes, tmp_path / name, protocol="lavt")
    counts = tmp_path / "blind" / "per_expression.jsonl"
    counts.write_text("".join(counts.read_text().splitlines(keepends=True)[1:]))
    make_champion(versions["finds"])
    stage = Promote(
        model=number(versions["blind"]),
        split="val",
        protocol="lavt",
        evaluations=(tmp_path / "finds", tmp_path / "blind"),
        out=tmp_path,
    )
    with pytest.raises(UserError, match="evaluate again"):
        stage.run()


def test_without_anything_to_compare_with_nothing_is_decided(mlflow_here, versions, tmp_path: Path):
    make_champion(versions["finds"])
    before = len(decisions(find_version(number(versions["blind"]))))
    with pytest.raises(UserError, match="name the splits to compare on"):
        Promote(model=number(versions["blind"])).run()
    with pytest.raises(UserError, match=r"no evaluation of mail-ris version 2 on val by protocol cris .* --data"):
        Promote(model=number(versions["blind"]), split="val", protocol="cris", out=tmp_path).run()
    assert len(decisions(find_version(number(versions["blind"])))) == before


def test_a_refusal_is_one_line_and_no_success(
    mlflow_here, boxes: Boxes, versions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_champion(versions["finds"])
    arguments = ["models", "promote", "2", "--split", "val", "testA", "--min-gain", "1", "--figure", "oIoU"]
    arguments += ["--data", boxes.store_uri, "--masks", boxes.masks_uri, "--workers", "0", "--out", str(tmp_path)]
    assert main(arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "oIoU on val" in error
    assert "oIoU on testA" in error
    assert "mIoU on" not in error


def test_the_champion_stays_the_champion(mlflow_here, versions, capsys: pytest.CaptureFixture[str]):
    make_champion(versions["finds"])
    Promote(model=number(versions["finds"])).run()
    assert "is the champion already" in capsys.readouterr().out


def test_an_audit_says_what_every_ingredient_saw_of_every_split(
    mlflow_here, versions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = MODELS["audit"](model=number(versions["finds"]), json=str(tmp_path / "audit.json")).run()
    assert json.loads((tmp_path / "audit.json").read_text()) == found
    assert found["leaky"] is False
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ingredient", "testA", "val", "saw"] in lines
    assert ["training", "data", "boxes", "train", "clean", "clean", "36", "listed", "images"] in lines
    assert ["proposer", "boxes-0123456789ab", "clean", "clean", "36", "listed", "images"] in lines


def test_a_chain_with_gaps_is_refused(mlflow_here, boxes: Boxes, folder: Path):
    version = make_registered(folder / "gap" / "model", boxes, "gap", run_id=None, proposer_id={})
    with pytest.raises(UserError, match="lineage: training run was not recorded"):
        Promote(model=number(version)).run()
    assert last_decision(version)["reasons"] == ["lineage: training run was not recorded"]


def test_a_chain_whose_files_are_gone_is_shown_as_broken_and_refused(
    mlflow_here, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lost = make_boxes(tmp_path / "lost", images=8)
    version = make_registered(folder / "lost" / "model", lost, "lost", run_id="f" * 32)
    shutil.rmtree(tmp_path / "lost" / "store")
    (tmp_path / "lost" / "masks" / "_delta_log" / f"{1:020}.json").unlink()
    MODELS["show"](model=number(version)).run()
    shown = capsys.readouterr().out
    assert [line.count("BROKEN") for line in shown.splitlines() if "BROKEN" in line] == [1, 1, 1, 1]
    assert "is not a data store" in shown
    MODELS["show"](model=number(version), json=True).run()
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert list(broken) == ["training run", "data store", "mask-table version", "images that the proposer saw"]
    with pytest.raises(UserError, match=r"data store: .* is not a data store"):
        Promote(model=number(version)).run()


def test_a_store_that_was_prepared_anew_is_another_one(mlflow_here, folder: Path, tmp_path: Path):
    boxes = make_boxes(tmp_path / "here", images=8)
    version = make_registered(folder / "anew" / "model", boxes, "anew")
    shutil.rmtree(tmp_path / "here")
    make_boxes(tmp_path / "here", images=12)
    with pytest.raises(UserError, match=r"holds another data store now.*holds another version 1 now"):
        Promote(model=number(version)).run()


def test_a_model_that_needs_more_than_a_photo_is_refused(mlflow_here, boxes: Boxes, folder: Path):
    version = make_registered(folder / "bare" / "model", boxes, "bare", bundled=False)
    with pytest.raises(UserError, match="smoke test: no proposer is bundled"):
        Promote(model=number(version)).run()


@pytest.mark.cluster
def test_a_model_that_a_fresh_process_cannot_load_is_refused(mlflow_here, boxes: Boxes, folder: Path):
    version = make_registered(folder / "damaged" / "model", boxes, "damaged")
    weights = download(version) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match="smoke test: the process ended with 1"):
        Promote(model=number(version)).run()
    assert champion("damaged") is None


def evaluate(model: Path, boxes: Boxes, out: Path, **settings: Any) -> None:
    Evaluate(
        model=str(model), data=boxes.store_uri, masks=boxes.masks_uri, split="val", out=out, workers=0, **settings
    ).run()
