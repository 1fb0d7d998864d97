"""`fine-tune`: own photos and sentences in, a better model and its interval out, also after a kill."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from mail.data.scenes import SceneConfig, generate_scene
from mail.data.store import DataStore
from mail.errors import UserError
from mail.lineage import model_digest
from pipelines.ending import EndRequested
from pipelines.stages.fine_tune import FineTune
from pipelines.stages.precompute import Precompute
from pipelines.stages.prepare import PrepareSynthetic
from pipelines.stages.train import Train
from pipelines.training.config import ModelOverrides
from tests.pipelines.killing import Run, wait_for
from tests.pipelines.stages.test_train import MICRO
from tests.registry import make_proposer


@pytest.fixture
def trained(tmp_path, monkeypatch, put_mlflow) -> Path:
    """A model that brings a proposer along; neither has learned much."""
    monkeypatch.chdir(tmp_path)
    put_mlflow(tmp_path / "mlflow.db")
    store, masks, proposer = (str(tmp_path / name) for name in ("store", "masks", "proposer"))
    PrepareSynthetic(out=store, images=24).run()
    make_proposer(Path(proposer))
    Precompute(data=store, proposer=proposer, masks=masks).run()
    options = {"global_batch_size": 8, "workers": 0, "validation_expressions": 6, "register": False, "threads": 1}
    made = Train(
        preset="tiny", name="first", data=store, masks=masks, proposer=proposer, steps=4,
        model=ModelOverrides(**MICRO), **options,
    )  # fmt: skip
    return Path(made.run()["model"])


def own_photos(folder: Path) -> list[str]:
    """Scenes of another look as somebody's photos; the options that name them."""
    lines = []
    for index in range(12):
        scene = generate_scene(5, index, SceneConfig(domain="tiles"))
        folder.mkdir(exist_ok=True)
        Image.fromarray(scene.image).save(folder / f"{index}.jpg", quality=95)
        split = ("train", "train", "train", "val", "test", "train")[index % 6]
        for number, reference in enumerate(scene.references):
            mask = scene.objects[reference.target].mask
            run_lengths = {"size": list(mask["size"]), "counts": mask["counts"].decode()}
            common = {"image": f"{index}.jpg", "split": split, "rle": run_lengths}
            for word, sentence in enumerate(reference.sentences):
                lines.append({"expr_id": f"{index}-{number}-{word}", "text": sentence.text, **common})
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return ["--expressions", str(folder / "mine.jsonl"), "--images", str(folder)]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "store.json").touch()  # `prepare custom --out runs/mine`, then `fine-tune --name mine`
    with pytest.raises(UserError, match=r"holds store\.json, which no fine-tuning made: choose another --out"):
        FineTune(from_="models:/mail-ris@champion", name="mine", data="store", out=tmp_path).run()
    with pytest.raises(UserError, match=r"--expressions FILE --images DIR\), or a data store"):
        FineTune(from_="models:/mail-ris@champion", name="mine", out=tmp_path / "new").run()


def test_one_that_is_ended_says_what_is_kept(tmp_path):
    given = {"from_": "models:/mail-ris@champion", "name": "mine", "expressions": "mine.csv", "out": tmp_path}
    stage, end = FineTune(**given), EndRequested(signal.SIGTERM)
    stage.tell_kept(end)
    assert end.kept == "nothing was begun"
    record = stage._record()
    results = {"check": {"address": "models:/mail-ris/1"}, "prepare": None, "precompute": {"proposer": None}}
    for name, result in results.items():
        record.run(name, lambda result=result: result)
    with pytest.raises(EndRequested):
        record.run("train", lambda: (_ for _ in ()).throw(end))
    stage.tell_kept(end)
    assert (end.kept, end.flags) == ("3 of 5 parts are done, nothing of the run was begun", ())


@pytest.mark.soak
@pytest.mark.cluster
def test_it_goes_on_after_a_kill_and_tells_what_it_has_brought(trained, tmp_path):
    photos = own_photos(tmp_path / "photos")
    (tmp_path / "wrong.csv").write_text("image,text,ann_ids\n0.jpg,two things,[3]\n")
    wrong = FineTune(from_=str(trained), expressions=str(tmp_path / "wrong.csv"), images=photos[-1], name="wrong")
    with pytest.raises(UserError, match=r"1 lines cannot be used .*`mail-ris prepare check` prints every one"):
        wrong.run()
    assert not wrong._record().seconds
    out = tmp_path / "tuned"
    words = ["fine-tune", "--from", str(trained), *photos, "--name", "mine", "--out", str(out), "--threads", "1"]
    words += ["--steps", "8", "--patience", "0"]
    killed = Run(*words)
    wait_for(lambda: any("train from step" in line for line in killed.said), killed)
    killed.kill("driver")
    killed.wait()
    record = json.loads((out / "fine-tune.json").read_text())
    assert set(record["seconds"]) == {"check", "prepare", "precompute"}

    again = Run(*words)
    assert again.wait() == 0, again.said[-5:]
    assert any("[2/5] prepare: is there already" in line for line in again.said)
    report = json.loads((out / "report.json").read_text())
    store = DataStore(out / "store")
    assert report["new_data"]["test"]["expressions"] == store.splits["test"]["expressions"]
    assert {row["split"] for row in report["forgetting"]} == {"testA", "testB"}
    assert len(report["sentences"]) == 2 + 2 * 2
    assert "points of mIoU" in report["sentences"][0]
    origin = json.loads((out / "run/model/lineage.json").read_text())
    assert origin["parent"]["digest"] == model_digest(trained)
    assert (out / "run/model/proposer/proposer.json").is_file()  # a photo alone is enough for it too
    page = (out / "report.html").read_text()
    assert page.count("<img") >= 3
    assert report["version"] is not None
    shutil.rmtree(tmp_path / "photos")  # they are not needed any more
    assert Run(*words).wait() == 0
