"""import-proposer: published networks become proposers that run as before, and leak unless somebody knows better."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from mail.data.store import DataStore
from mail.errors import UserError
from mail.proposers import load_proposer
from mail.proposers.folder import ProposerFolder
from mail.proposers.torchvision_weights import WEIGHTS
from pipelines.stages.import_proposer import COCO_V1, ImportProposer
from pipelines.stages.precompute import Precompute
from tests.boxes import make_boxes
from tests.mail.proposers.checkpoints import save_mask2former
from tests.mail.test_leakage import photos_store, picture, saved


def test_a_mask2former_of_unknown_origin_is_leaky(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, store = save_mask2former(tmp_path / "checkpoint"), make_boxes(tmp_path / "boxes", images=8).store
    out = str(tmp_path / "p")
    plan = ImportProposer(weights=str(checkpoint), out=out).plan()
    assert plan == {
        "architecture": "mask2former",
        "fetched_from_pytorch": False,
        "leaky": True,
        "saw": "nobody knows what",
    }
    proposer_id = ImportProposer(weights=str(checkpoint), out=out).run()
    assert f"wrote {out}: {proposer_id}, 3 categories" in capsys.readouterr().out
    assert load_proposer(out).proposer_id == proposer_id
    stage = Precompute(data=store.uri, proposer=out, masks=str(tmp_path / "masks"))
    with pytest.raises(UserError, match="nobody knows which images"):
        stage.plan()
    (tmp_path / "seen.txt").write_text("7 8")
    ImportProposer(weights=str(checkpoint), out=str(tmp_path / "q"), images_seen=str(tmp_path / "seen.txt")).run()
    known = Precompute(data=store.uri, proposer=str(tmp_path / "q"), masks=str(tmp_path / "masks")).plan()
    assert (known["leaky"], known["proposer_id"]) == (False, proposer_id)
    with pytest.raises(UserError, match="already holds a proposer"):
        ImportProposer(weights=str(checkpoint), out=out).plan()


def test_what_saw_coco_leaks_on_cocos_ids_and_on_its_photos_under_other_ids_where_they_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = {n: ("val" if n < 3 else "train", saved(picture(n))) for n in range(1, 5)}
    published = photos_store(tmp_path, "published", {f"coco/{n}": photo for n, photo in photos.items()})
    own = photos_store(tmp_path, "own", {f"own/{n}": photo for n, photo in photos.items()})
    checkpoint = str(save_mask2former(tmp_path / "mask2former-swin-tiny-coco-instance"))

    def leaky(name: str, store: DataStore, *seen: str, **given: object) -> bool:
        out = str(tmp_path / name)
        ImportProposer(weights=checkpoint, out=out, images_seen=seen, **given).run()
        masks = str(tmp_path / "masks")
        return Precompute(data=store.uri, proposer=out, masks=masks).plan()["leaky"]

    refused = r"2 of 2 of val \(first: {}/1\); it saw coco/train2017"
    with pytest.raises(UserError, match=refused.format("coco")):
        leaky("declared", published, "coco/train2017")
    with pytest.raises(UserError, match=refused.format("coco")):
        leaky("named", published)  # as it was published
    assert leaky("other", own, "coco/train2017") is False
    assert "2 of 2 images of the evaluation splits of own are clean by their ids" in capsys.readouterr().err
    with pytest.raises(UserError, match=refused.format("own")):
        leaky("listed", own, "coco/train2017", published.uri)
    (tmp_path / "val2017.json").write_text('{"images": [{"id": 1}, {"id": 2}], "annotations": []}')
    assert leaky("but", published, "coco/train2017", images_not_seen=str(tmp_path / "val2017.json")) is False


@pytest.mark.cluster
def test_torchvisions_coco_weights_run_as_torchvision_runs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    builder = torchvision.models.detection.maskrcnn_resnet50_fpn
    theirs = builder(weights=None, weights_backbone=None, min_size=96, max_size=128, box_score_thresh=0.0)
    with torch.no_grad():  # such that untrained weights prefer something
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(50)
    published = tmp_path / "hub/checkpoints" / Path(WEIGHTS["r50-fpn"].url).name
    published.parent.mkdir(parents=True)
    torch.save({_published_name(k): v for k, v in theirs.state_dict().items()}, published)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # where torchvision looks before it downloads
    out = str(tmp_path / "p")
    ImportProposer(
        weights=COCO_V1, architecture="r50-fpn", out=out, min_size=96, max_size=128, score_threshold=0.0
    ).run()
    folder = ProposerFolder.read(out)
    assert str(folder.origin) == "coco/train2017; without masks: imagenet-1k"
    assert isinstance(folder.network.categories, tuple)
    assert dict(folder.network.categories)[90] == "toothbrush"
    proposer = load_proposer(out)
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    (found,) = proposer.detect([image])
    network = builder(
        weights=None, weights_backbone=None, min_size=96, max_size=128, box_score_thresh=0.0, box_nms_thresh=0.6
    )
    # the published weights of this one come with frozen norms, which have another epsilon
    network.load_state_dict(theirs.state_dict())
    proposer.network.to(memory_format=torch.contiguous_format)
    network.backbone.body = proposer.network.backbone.body
    network.roi_heads.detections_per_img = 75
    with torch.inference_mode():
        (expected,) = network.eval()([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
    assert found.scores == pytest.approx(expected["scores"].numpy(), abs=1e-4)
    assert found.boxes == pytest.approx(expected["boxes"].numpy(), abs=0.05)
    assert found.labels.tolist() == expected["labels"].tolist()
    for path in (published, tmp_path / "p/model.safetensors"):
        path.unlink()  # 170 MB each


def _published_name(name: str) -> str:
    """What the weights that torchvision published for this network call a tensor."""
    name = re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", name)
    return re.sub(r"(rpn\.head\.conv|_blocks\.\d)(?:\.0)+\.(weight|bias)$", r"\1.\2", name)


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    torch.save({"backbone.body.conv1.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="is no r50-fpn of torchvision with 91 outputs"):
        ImportProposer(weights=str(tmp_path / "w.pth"), architecture="r50-fpn", out=str(tmp_path / "p")).run()
    with pytest.raises(UserError, match="there is no file"):
        ImportProposer(weights=str(tmp_path / "none.pth"), out=str(tmp_path / "p")).run()
    with pytest.raises(UserError, match=r"has no config\.json"):
        ImportProposer(weights=str(tmp_path), out=str(tmp_path / "p")).run()
    with pytest.raises(UserError, match="there is no file"):
        ImportProposer(weights=str(tmp_path / "none.pth"), out=str(tmp_path / "p")).plan()
    assert not (tmp_path / "p").exists()
