"""Mask2Former as a proposer: a checkpoint as transformers writes it is read, and run as transformers runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from mail import rle
from mail.errors import UserError
from mail.proposers import load_proposer
from mail.proposers.config import SelectionConfig
from mail.proposers.folder import ProposerFolder, write_proposer
from mail.proposers.mask2former import Mask2FormerProposer, read_checkpoint
from tests.mail.proposers.checkpoints import save_mask2former

IMAGES = [
    np.random.default_rng(n).integers(0, 255, (*size, 3), dtype=np.uint8)
    for n, size in enumerate([(90, 140), (300, 200), (1, 1), (1, 4000), (4000, 1)])
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_mask2former(tmp_path_factory.mktemp("checkpoint"))


def make(checkpoint: Path, out: Path, **selection: object) -> ProposerFolder:
    network, weights = read_checkpoint(str(checkpoint))
    chosen = SelectionConfig(**({"score_threshold": 0.0, "max_instances": 10} | selection))  # type: ignore[arg-type]
    return write_proposer(out, network=network, selection=chosen, weights=weights, seen=None, training={})


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ProposerFolder:
    return make(checkpoint, tmp_path_factory.mktemp("proposer"))


def test_proposals_are_in_the_images_own_resolution_best_first(folder: ProposerFolder) -> None:
    proposer = load_proposer(folder.path, max_instances=4)
    assert isinstance(proposer, Mask2FormerProposer)
    for image, found in zip(IMAGES, proposer.propose(IMAGES), strict=True):
        assert found.size == image.shape[:2]
        assert len(found) <= 4
        assert all(r["size"] == list(image.shape[:2]) for r in found.rles)
        assert (np.diff(found.scores) <= 0).all()
        assert set(found.labels.tolist()) <= {1, 2, 3}


def test_scores_and_masks_are_those_that_transformers_gives(checkpoint: Path, folder: ProposerFolder) -> None:
    """Its own network and processor on the same photo, and its score, but the masks not cut to 384 x 384."""
    image = IMAGES[0]
    network = Mask2FormerForUniversalSegmentation.from_pretrained(checkpoint).eval()
    processor = Mask2FormerImageProcessor.from_pretrained(checkpoint)
    with torch.inference_mode():
        output = network(**processor(image, return_tensors="pt"))
    (theirs,) = processor.post_process_instance_segmentation(output, threshold=0.0, return_binary_maps=True)
    best: dict[float, torch.Tensor] = {}
    for info, mask in zip(theirs["segments_info"], theirs["segmentation"], strict=True):
        best[info["score"]] = mask
    proposer = Mask2FormerProposer.load(folder)
    (found,) = proposer.detect([image])
    assert found.scores.max() == pytest.approx(max(best), abs=1e-3)
    strongest = int(found.scores.argmax())
    chosen = rle.decode(proposer.select(found, (90, 140)).rles[0])
    # the processor resized 90 x 140 to 64 x 96 without padding, so the whole of its map is the image
    reference = torch.nn.functional.interpolate(best[max(best)][None, None].float(), (90, 140), mode="bilinear")[0, 0]
    reference = reference.numpy() >= 0.5
    assert found.masks[strongest].shape[0] > 0
    assert (chosen & reference).sum() / (chosen | reference).sum() > 0.97


def test_an_image_gets_the_same_proposals_alone_and_beside_larger_ones(folder: ProposerFolder) -> None:
    proposer = load_proposer(folder.path)
    together = proposer.detect(IMAGES[:2])
    for image, found in zip(IMAGES, together, strict=False):
        (alone,) = proposer.detect([image])
        assert sorted(alone.scores) == pytest.approx(sorted(found.scores), abs=0.02)
        assert alone.boxes.max(0) == pytest.approx(found.boxes.max(0), abs=8)


def test_a_checkpoint_that_squashes_its_images_covers_them_whole(tmp_path: Path) -> None:
    checkpoint = save_mask2former(tmp_path / "c", size={"height": 64, "width": 64})
    proposer = load_proposer(make(checkpoint, tmp_path / "p").path)
    for image, found in zip(IMAGES, proposer.detect(IMAGES), strict=True):
        assert found.boxes[:, 2:].max(0).tolist() == pytest.approx([image.shape[1], image.shape[0]])


def test_thresholds_and_preprocessing_are_part_of_the_id(folder: ProposerFolder, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    network, weights = read_checkpoint(str(save_mask2former(tmp_path / "c", size={"height": 64, "width": 64})))
    other = write_proposer(
        tmp_path / "p", network=network, selection=folder.selection, weights=weights, seen=None, training={}
    )
    assert other.weights_sha256 == folder.weights_sha256
    ids = {folder.proposer_id, other.proposer_id, folder.with_selection(0.5, None).proposer_id}
    assert len(ids) == 3
    assert all(i.startswith("mask2former-swin-") for i in ids)
    assert ProposerFolder.read(folder.path).proposer_id == folder.proposer_id


def test_what_is_no_checkpoint_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        read_checkpoint(str(tmp_path))
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        read_checkpoint(str(tmp_path))
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr"}))
    with pytest.raises(UserError, match="is a 'detr'"):
        read_checkpoint(str(tmp_path))


def test_weights_that_lack_layers_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    import safetensors.torch

    network, weights = read_checkpoint(str(checkpoint))
    state = {k: v for k, v in safetensors.torch.load(weights).items() if "class_predictor" not in k}
    folder = write_proposer(
        tmp_path,
        network=network,
        selection=SelectionConfig(),
        weights=safetensors.torch.save(state),
        seen=None,
        training={},
    )
    with pytest.raises(UserError, match="do not fit its config: no class_predictor"):
        load_proposer(folder.path)
