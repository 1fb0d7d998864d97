"""The proposer folder, its id, and the detector that runs from it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from mail.data.origins import UNKNOWN
from mail.errors import UserError
from mail.proposers import load_proposer
from mail.proposers.config import NetworkConfig, SelectionConfig
from mail.proposers.folder import ProposerFolder, write_proposer
from mail.proposers.maskrcnn import build_network, load_initial_weights

SEEN = ["coco/9", "coco/25"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ProposerFolder:
    torch.manual_seed(0)
    network, selection = NetworkConfig(), SelectionConfig(score_threshold=0.0, max_instances=6)
    weights = safetensors.torch.save(build_network(network).state_dict())
    path = tmp_path_factory.mktemp("proposer")
    return write_proposer(path, network=network, selection=selection, weights=weights, seen=SEEN, training={"steps": 0})


def test_a_written_proposer_is_read_back(folder: ProposerFolder) -> None:
    again = ProposerFolder.read(folder.path)
    assert again == folder
    assert again.origin.image_ids == ["coco/25", "coco/9"]
    assert again.info["trained_on"]["count"] == 2


def test_the_id_changes_with_all_that_changes_the_output_and_with_nothing_else(folder: ProposerFolder) -> None:
    same = dataclasses.replace(folder, path="elsewhere", training={"steps": 7}, origin=UNKNOWN)
    assert same.proposer_id == folder.proposer_id
    others = [
        folder.with_selection(0.5, None),
        folder.with_selection(None, 7),
        dataclasses.replace(folder, weights_sha256="0" * 64),
        dataclasses.replace(folder, network=dataclasses.replace(folder.network, min_size=256)),
    ]
    assert len({folder.proposer_id, *(o.proposer_id for o in others)}) == 5
    assert folder.with_selection(None, None).proposer_id == folder.proposer_id


def test_proposals_are_in_the_images_own_resolution_best_first(folder: ProposerFolder) -> None:
    proposer = load_proposer(folder.path)
    random = np.random.default_rng(0)
    sizes = [(90, 140), (1, 4000), (300, 200), (1, 1), (3, 200), (4000, 1)]
    images = [random.integers(0, 255, (*size, 3), dtype=np.uint8) for size in sizes]
    for image, found in zip(images, proposer.propose(images), strict=True):
        assert found.size == image.shape[:2]
        assert len(found) <= 6
        assert all(r["size"] == list(image.shape[:2]) for r in found.rles)
        assert (np.diff(found.scores) <= 0).all()
        assert set(found.labels.tolist()) <= {1}


def test_an_image_gets_the_same_proposals_alone_and_in_a_batch(folder: ProposerFolder) -> None:
    proposer = load_proposer(folder.path, max_instances=3)
    images = [np.random.default_rng(n).integers(0, 255, (120, 120, 3), dtype=np.uint8) for n in range(3)]
    together = proposer.propose(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = proposer.propose([image])
        assert alone.scores == pytest.approx(found.scores, abs=1e-4)


def test_a_folder_that_is_no_proposer_is_refused(folder: ProposerFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a proposer"):
        load_proposer(str(tmp_path))
    for name in ("proposer.json", "images.json", "model.safetensors"):
        (tmp_path / name).write_bytes((Path(folder.path) / name).read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(UserError, match="is not the file that"):
        load_proposer(str(tmp_path))
    (tmp_path / "images.json").write_text("[")
    with pytest.raises(UserError, match="broken"):
        load_proposer(str(tmp_path))


def test_unknown_architectures_and_thresholds_are_refused(folder: ProposerFolder) -> None:
    with pytest.raises(UserError, match="no proposer architecture 'yolo'"):
        NetworkConfig(architecture="yolo")
    with pytest.raises(UserError, match="score threshold 2"):
        folder.with_selection(2, None)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_training_can_start_from_a_state_dict_with_other_classes(tmp_path: Path, suffix: str) -> None:
    source = build_network(NetworkConfig(categories=((1, "cat"), (3, "dog")))).state_dict()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"model": source}, path)
    else:
        safetensors.torch.save_file(source, path)
    network = build_network(NetworkConfig())
    before = {k: v.clone() for k, v in network.state_dict().items()}
    load_initial_weights(network, str(path))
    other = [k for k, v in source.items() if v.shape != before[k].shape]
    assert len(other) == 6  # weight and bias of the class, box and mask outputs
    assert all(torch.equal(network.state_dict()[k], before[k] if k in other else v) for k, v in source.items())
    name = "backbone.stem.0.0.weight"
    assert torch.equal(network.state_dict()[name], source[name])


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="not a state dict"):
        load_initial_weights(build_network(NetworkConfig()), str(tmp_path / "evil.pth"))
    assert not (tmp_path / "touched").exists()


@pytest.mark.filterwarnings("error")
def test_torchvisions_own_architectures_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    for architecture in ("r50-fpn", "r50-fpn-v2"):
        with torch.device("meta"):  # their parameters' names and shapes without the memory
            network = build_network(NetworkConfig(architecture=architecture, categories=((1, "thing"),)))
        assert network.roi_heads.mask_predictor.mask_fcn_logits.out_channels == 2
        assert "backbone.body.layer4.2.conv3.weight" in network.state_dict()
