"""Training a proposer: which images, in which batches, with which targets; that it learns; that it can be resumed."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mail.data.coco import CocoInstances
from mail.data.image_lists import read_ids
from mail.data.images import turn_upright
from mail.data.orientation import ExifAnnotated
from mail.data.scenes.layout import write_published_layout
from mail.errors import UserError
from mail.proposals import Proposals
from mail.proposers.average_precision import mask_ap
from mail.proposers.fit import ProposerJob, fit
from mail.proposers.presets import PRESETS, preset
from mail.proposers.quality import RECALL_AT, instance_recall
from mail.proposers.training import InstanceImages, learning_rate, training_batches
from mail.proposers.training_images import choose_images, evaluation_images, infer_namespace
from tests.published import Published

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_published_layout(root, 24, seed=3)
    return root


@pytest.fixture(scope="module")
def images(root: Path) -> InstanceImages:
    return InstanceImages(CocoInstances(root / "synthetic/instances.json"), str(root / "images/train2014"))


def make_job(root: Path, images: InstanceImages, **changes: object) -> ProposerJob:
    values = {
        "network": TINY.network,
        "selection": TINY.selection,
        "instances": str(root / "synthetic/instances.json"),
        "images": str(root / "images/train2014"),
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "warm_up": 1,
        "weight_decay": 1e-4,
        "seed": 0,
        "weights": None,
        "checkpoint_every": 2,
        "train": tuple(images.coco.images)[:20],
        "held_out": tuple(images.coco.images)[20:],
    }
    return ProposerJob(**(values | changes))


def test_global_batches_are_the_same_for_any_number_of_workers_and_after_a_resume(images: InstanceImages) -> None:
    ids = list(images.coco.images)[:5]

    def batches(first: int, rank: int, world_size: int) -> list[list[torch.Tensor]]:
        stream = training_batches(images, ids, batch_size=4, seed=1, first_step=first, rank=rank, world_size=world_size)
        return [pictures for pictures, _ in itertools.islice(stream, 3)]

    whole = batches(0, 0, 1)
    for step, (even, odd) in enumerate(zip(batches(0, 0, 2), batches(0, 1, 2), strict=True)):
        shared = [even[0], odd[0], even[1], odd[1]]
        assert all(torch.equal(a, b) for a, b in zip(whole[step], shared, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole[2], batches(2, 0, 1)[0], strict=True))


def test_targets_follow_the_flip(images: InstanceImages) -> None:
    image_id = next(iter(images.coco.images))
    picture, target = images.example(image_id)
    flipped, mirrored = images.example(image_id, flip=True)
    width = picture.shape[2]
    assert torch.equal(flipped, picture.flip(2))
    assert torch.equal(mirrored["masks"], target["masks"].flip(2))
    assert torch.equal(mirrored["boxes"][:, 0], width - target["boxes"][:, 2])
    assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
    for mask, box in zip(target["masks"], target["boxes"].int(), strict=True):
        assert mask.sum() == mask[box[1] : box[3], box[0] : box[2]].sum()


def test_crowds_and_unreadable_polygons_are_no_targets(tmp_path: Path) -> None:
    base = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16}
    good = {**base, "id": 1, "iscrowd": 0, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    crowd = {**base, "id": 2, "iscrowd": 1, "segmentation": {"size": [8, 8], "counts": [0, 64]}}
    broken = {**base, "id": 3, "iscrowd": 0, "segmentation": [[1, 2]]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [good, crowd, broken],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    masks, classes = InstanceImages(CocoInstances(tmp_path / "instances.json"), str(tmp_path)).masks(1)
    assert (len(masks), classes.tolist()) == (1, [1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("chosen", ["as-shown", "as-stored"])
def test_targets_lie_on_the_upright_photo(tmp_path: Path, orientation: int, chosen: ExifAnnotated) -> None:
    """As in `prepare`: sizes tell where they can, else the choice; what is annotated is the white box."""
    pixels, exif = np.zeros((48, 64, 3), np.uint8), Image.Exif()
    pixels[5:20, 8:40] = 255
    exif[0x0112] = orientation
    told = orientation >= 5
    shown = turn_upright(pixels[..., 0], orientation) if chosen == "as-shown" and not told else pixels[..., 0]
    top, left = np.argwhere(shown)[0].tolist()
    bottom, right = (np.argwhere(shown)[-1] + 1).tolist()
    box, polygon = [left, top, right - left, bottom - top], [left, top, right, top, right, bottom, left, bottom]
    base = {"image_id": 1, "category_id": 1, "area": box[2] * box[3], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 48, "width": 64}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**base, "id": 1, "bbox": box, "segmentation": [polygon]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    images = InstanceImages(CocoInstances(tmp_path / "instances.json"), str(tmp_path), exif_annotated=chosen)
    picture, target = images.example(1)
    assert torch.equal(target["masks"][0].bool(), picture[0] > 0.5)
    assert images.find_assumed([1]) == ([] if told or orientation == 1 else ["a.png"])
    found = Proposals((picture.shape[1], picture.shape[2]), np.ones(1), np.ones(1, int), rles=images.masks(1)[0])
    assert mask_ap(images.coco, {1: found}, True, images.mask)["mask_AP"] == pytest.approx(1.0)


def test_photos_of_another_size_are_refused_before_the_training(images: InstanceImages, tmp_path: Path) -> None:
    image_id, image = next(iter(images.coco.images.items()))
    Image.new("RGB", (image.width + 1, image.height)).save(tmp_path / image.file_name)
    with pytest.raises(UserError, match="the photos are not the ones that were annotated"):
        InstanceImages(images.coco, str(tmp_path)).find_assumed([image_id])


def test_a_missing_or_broken_photo_is_named(images: InstanceImages, tmp_path: Path) -> None:
    elsewhere = InstanceImages(images.coco, str(tmp_path))
    image_id, image = next(iter(images.coco.images.items()))
    with pytest.raises(UserError, match=f"has no file {image.file_name}"):
        elsewhere.image(image_id)
    (tmp_path / image.file_name).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=image.file_name):
        elsewhere.image(image_id)


def test_a_resumed_training_ends_with_the_same_weights(root: Path, images: InstanceImages, tmp_path: Path) -> None:
    saved: dict[int, dict[str, bytes]] = {}

    def keep(metrics: dict, folder: Path | None) -> None:
        if folder is not None:
            saved[metrics["step"]] = {p.name: p.read_bytes() for p in folder.iterdir()}

    job = make_job(root, images, held_out=())
    fit(job, device=torch.device("cpu"), report=keep)
    whole = saved[4]["model.safetensors"]
    for name, content in saved[2].items():
        (tmp_path / name).write_bytes(content)
    fit(job, device=torch.device("cpu"), report=keep, resume=tmp_path)
    from safetensors.torch import load

    first, second = load(whole), load(saved[4]["model.safetensors"])
    assert all(torch.allclose(first[k], second[k], atol=1e-5) for k in first)


def test_a_few_steps_lower_the_loss(root: Path, images: InstanceImages) -> None:
    losses: list[float] = []
    final: dict[str, float] = {}

    def watch(metrics: dict, folder: Path | None) -> None:
        losses.append(metrics["loss"]) if "loss" in metrics else final.update(metrics)

    job = make_job(root, images, steps=30, batch_size=2, learning_rate=3e-3, warm_up=5, checkpoint_every=5)
    fit(job, device=torch.device("cpu"), report=watch)
    assert losses[-1] < 0.9 * losses[0]
    assert final["instances"] > 0
    assert 0 <= final["recall_75"] <= final["recall_50"] <= 1
    assert final["recall_50@1"] <= final["recall_50@5"] <= final["recall_50"]
    assert 0 <= final["mask_AP"] <= final["mask_AP50"] <= 1


def test_the_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(s, 100, 1.0, 10) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.02
    assert np.argmax(rates) in (9, 10)


def test_evaluation_images_are_kept_out(root: Path, images: InstanceImages) -> None:
    forbidden = evaluation_images(str(root), ["synthetic"], "synthetic")
    assert set(forbidden) == {f"synthetic(synthetic) {s}" for s in ("val", "testA", "testB")}
    chosen = choose_images(images.coco, "synthetic", forbidden=forbidden, holdout_fraction=0.2, max_held_out=3, seed=0)
    assert len(chosen.held_out) == 3
    assert not set(chosen.seen) & set.union(*forbidden.values())
    assert not set(chosen.train) & set(chosen.held_out)
    assert len(chosen.train) + 3 + sum(chosen.excluded.values()) == len(images.coco.images)
    again = choose_images(images.coco, "synthetic", forbidden=forbidden, holdout_fraction=0.2, max_held_out=3, seed=0)
    assert again == chosen


def test_evaluation_images_of_the_published_files(repository: Path) -> None:
    root = repository / "../shared/data/refcoco_mini"
    if not root.exists():
        pytest.skip("needs shared/data/refcoco_mini beside the checkout")
    found = evaluation_images(str(root), ["refcoco", "refcocog"])
    assert sum(map(len, found.values())) >= 9
    assert all(i.startswith("coco/") for ids in found.values() for i in ids)
    with pytest.raises(UserError, match=r"no refs\(\*\.p\) file"):
        evaluation_images(str(root), ["refcoco+"])


def test_nothing_left_to_train_on_is_an_error(images: InstanceImages) -> None:
    every = {f"coco/{i}" for i in images.coco.images}
    with pytest.raises(UserError, match="no image is left"):
        choose_images(images.coco, "coco", forbidden={"a": every}, holdout_fraction=0, max_held_out=9, seed=0)


def test_lists_of_ids_are_read(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_text("7\ncoco/8\n")
    assert read_ids(str(path), "coco") == {"coco/7", "coco/8"}
    path.write_text('[7, "x/8"]')
    assert read_ids(str(path), "coco") == {"coco/7", "x/8"}
    path.write_text("seven")
    with pytest.raises(UserError, match="'seven' is not an image id"):
        read_ids(str(path), "coco")
    with pytest.raises(UserError, match="there is no file"):
        read_ids(str(tmp_path / "none"), "coco")


def test_the_namespace_comes_from_the_published_layout() -> None:
    with pytest.raises(UserError, match="name --exclude-store STORE"):
        infer_namespace("data/synthetic/instances.json")
    assert infer_namespace("annotations/instances_train2017.json") == "coco"


def test_unknown_presets_are_listed() -> None:
    with pytest.raises(UserError, match="tiny, r50-fpn, r50-fpn-v2"):
        preset("huge")


def test_images_that_several_splits_hold_are_counted_for_each_and_left_out_once(tmp_path: Path) -> None:
    base = Published(tmp_path, splits=("train", "train", "val", "testA", "testB", "train")).write()
    splits = ("val", "train", "val", "train", "train", "testA")
    Published(tmp_path, dataset="grefcoco", splits=splits).write()
    forbidden = evaluation_images(str(tmp_path), ["refcoco", "grefcoco"])
    coco = CocoInstances(base.root / "refcoco/instances.json")
    chosen = choose_images(coco, "coco", forbidden=forbidden, holdout_fraction=0.0, max_held_out=9, seed=0)
    assert chosen.excluded == {
        "refcoco(unc) testA": 1,
        "refcoco(unc) testB": 1,
        "refcoco(unc) val": 1,
        "grefcoco(unc) testA": 1,
        "grefcoco(unc) val": 2,
    }
    assert chosen.left_out == 5
    assert chosen.seen == ["coco/2"]


def test_the_published_lists_keep_their_images_out(repository: Path) -> None:
    data = repository / "../shared/data"
    if not data.exists():
        pytest.skip("needs shared/data beside the checkout")
    forbidden = evaluation_images(str(data / "refcoco_mini"), ["refcoco", "refcocog"])
    settings = {"forbidden": forbidden, "holdout_fraction": 0.05, "max_held_out": 200, "seed": 0}
    pool = choose_images(CocoInstances(data / "coco_pool/instances.json"), "coco", **settings)
    assert pool.left_out == 0
    assert set(pool.excluded.values()) == {0}
    own = CocoInstances(data / "refcoco_mini/refcoco/instances.json")
    with pytest.raises(UserError, match="no image is left"):
        choose_images(own, "coco", **settings)


@pytest.mark.parametrize("class_agnostic", [True, False])
def test_mask_ap_is_that_of_pycocotools(images: InstanceImages, class_agnostic: bool) -> None:
    chosen = list(images.coco.images)[:4]
    found: dict[int, Proposals] = {}
    for image_id in chosen:
        size = (images.coco.images[image_id].height, images.coco.images[image_id].width)
        instances = images.coco.instances_of(image_id)
        masks = [images.coco.mask(i) for i in instances]
        labels = np.array([i.category_id for i in instances], np.int32)
        scores = np.linspace(0.9, 0.5, len(masks), dtype=np.float32)
        found[image_id] = Proposals(size, scores, labels, np.zeros((len(masks), 4), np.float32), masks)
    assert mask_ap(images.coco, found, class_agnostic)["mask_AP"] == pytest.approx(1.0)
    lost = {k: v for k, v in found.items() if k != chosen[0]} | {chosen[0]: Proposals(found[chosen[0]].size)}
    assert 0 < mask_ap(images.coco, lost, class_agnostic)["mask_AP50"] < 1
    for proposals in found.values():
        proposals.labels = proposals.labels % 2 + 1  # none or few of them right
    wrong = mask_ap(images.coco, found, class_agnostic)["mask_AP"]
    assert wrong == pytest.approx(1.0) if class_agnostic else wrong < 0.9
    assert mask_ap(images.coco, {i: Proposals(found[i].size) for i in chosen}, class_agnostic)["mask_AP"] == 0


def test_recall_grows_with_the_number_of_proposals(images: InstanceImages) -> None:
    image_id = next(i for i in images.coco.images if len(images.masks(i)[0]) >= 3)
    masks, _ = images.masks(image_id)
    size = (images.coco.images[image_id].height, images.coco.images[image_id].width)
    count = len(masks)
    proposals = Proposals(
        size, np.linspace(1, 0.5, count, dtype=np.float32), np.ones(count, np.int32), np.zeros((count, 4)), masks
    )
    report = instance_recall([(masks, proposals), (masks, Proposals(size))])
    assert report["recall_50@1"] == pytest.approx(1 / (2 * count))
    assert report["recall_50@2"] == report["recall_75@2"] == pytest.approx(2 / (2 * count))
    assert report["recall_50"] == pytest.approx(0.5)
    assert f"recall_50@{max(k for k in RECALL_AT if k > count)}" not in report


def test_what_is_not_there_is_not_measured(images: InstanceImages) -> None:
    image_id = next(iter(images.coco.images))
    size = (images.coco.images[image_id].height, images.coco.images[image_id].width)
    assert set(mask_ap(images.coco, {}, class_agnostic=True).values()) == {None}
    assert mask_ap(images.coco, {image_id: Proposals(size)}, class_agnostic=True)["mask_AP"] == 0
    assert instance_recall([([], Proposals(size))])["recall_50"] is None
    assert instance_recall([([], Proposals(size))])["instances"] == 0
