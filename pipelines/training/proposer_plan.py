"""What a proposer's training is, worked out from its options before anything starts."""

import dataclasses

import pyarrow as pa

from mail.data.coco import CocoInstances
from mail.data.image_keys import identities, keys_of
from mail.data.image_lists import origin_of, read_ids, read_images
from mail.data.ingest import Progress
from mail.data.origins import NOTHING, UNKNOWN, Origin
from mail.data.schema import is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError
from mail.proposers.fit import ProposerJob
from mail.proposers.learnable import examine
from mail.proposers.maskrcnn import build_network, load_initial_weights
from mail.proposers.origin import origin_of_weights
from mail.proposers.presets import preset
from mail.proposers.training import InstanceImages
from mail.proposers.training_images import (
    TrainingImages,
    choose_images,
    evaluation_images,
    infer_namespace,
    store_namespace,
)
from pipelines.terminal import progress_of
from pipelines.training.proposer_config import ProposerTrainingConfig


def plan_training(options: ProposerTrainingConfig) -> tuple[ProposerJob, TrainingImages, list[str]]:
    """The job of the workers, which images it trains on, and what a person should know of their annotations.

    Raises:
        UserError: an option is wrong, too few images are left, or there is nothing to learn from on them.
    """
    recipe = preset(options.preset)
    steps = recipe.steps if options.steps is None else options.steps
    batch_size = recipe.batch_size if options.batch_size is None else options.batch_size
    if steps < 1 or batch_size < max(1, options.workers):
        raise UserError(f"{steps} steps of {batch_size} images for {options.workers} workers: each needs at least one")
    if options.checkpoint_every < 1 or (options.learning_rate is not None and options.learning_rate <= 0):
        raise UserError("--checkpoint-every must be at least 1, --learning-rate above 0")
    if options.exclude_eval_of and not options.refs_root:
        raise UserError("--exclude-eval-of needs --refs-root, the folder that holds refcoco/refs(unc).p and so on")
    store = DataStore(options.exclude_store) if options.exclude_store else None
    namespace = options.namespace or (store_namespace(store) if store else infer_namespace(options.instances))
    forbidden = {where: set(keys["image_id"].to_pylist()) for where, keys in _evaluated(store).items()}
    if options.exclude:
        forbidden[options.exclude] = read_ids(options.exclude, namespace)
    if options.exclude_eval_of:
        forbidden |= evaluation_images(str(options.refs_root), options.exclude_eval_of.split(","), options.namespace)
    coco = CocoInstances(options.instances)
    network = dataclasses.replace(
        recipe.network,
        categories=recipe.network.categories if options.class_agnostic else tuple(coco.categories.items()),
        min_size=options.min_size or recipe.network.min_size,
        max_size=options.max_size or recipe.network.max_size,
        frozen_norm=options.weights is not None and recipe.network.architecture == "r50-fpn",
    )
    if thin := {f"{namespace}/{i.id}" for i in coco.images.values() if not network.sees(i.height, i.width)}:
        forbidden["strips too thin for the network"] = thin
    chosen = choose_images(
        coco,
        namespace,
        forbidden=forbidden,
        holdout_fraction=options.holdout_fraction,
        max_held_out=options.max_held_out,
        seed=options.seed,
    )
    photos = InstanceImages(coco, options.images, network.classes, exif_annotated=options.exif_annotated)
    used = [*chosen.train, *chosen.held_out]
    photos.check(used)
    photos.image(chosen.train[0])
    remarks = examine(photos, chosen)
    with progress_of("photos looked at") as progress:
        chosen = dataclasses.replace(chosen, assumed=tuple(photos.find_assumed(used, progress)))
    job = ProposerJob(
        network=network,
        selection=recipe.selection,
        instances=options.instances,
        images=options.images,
        steps=steps,
        batch_size=batch_size,
        learning_rate=options.learning_rate or recipe.learning_rate,
        warm_up=min(recipe.warm_up, steps // 4),
        weight_decay=recipe.weight_decay,
        seed=options.seed,
        weights=options.weights,
        checkpoint_every=options.checkpoint_every,
        train=tuple(chosen.train),
        held_out=tuple(chosen.held_out),
        exif_annotated=options.exif_annotated,
    )
    return job, chosen, remarks


def look_at_photos(
    options: ProposerTrainingConfig, job: ProposerJob, chosen: TrainingImages, progress: Progress | None = None
) -> tuple[ProposerJob, TrainingImages, pa.Table]:
    """The same without the photos that --exclude or an evaluation split of --exclude-store has under another id.

    Reads every photo, so that it is no part of a dry run; the last of what comes back are the keys of those left.

    Raises:
        UserError: a photo is missing or broken, or none is left.
    """
    contents = InstanceImages(CocoInstances(options.instances), options.images).contents(chosen.train, progress)
    keys = keys_of((image_id, *content) for image_id, content in zip(chosen.seen, contents, strict=True))
    unwanted = _evaluated(DataStore(options.exclude_store) if options.exclude_store else None)
    if options.exclude:
        unwanted[options.exclude] = read_images(options.exclude, chosen.namespace)
    for where, images in unwanted.items():
        forbidden = identities(images)
        content = zip(chosen.train, keys["sha256"].to_pylist(), keys["pixels"].to_pylist(), strict=True)
        if found := {image_id for image_id, *digests in content if forbidden.intersection(digests)}:
            kept = pa.array([image_id not in found for image_id in chosen.train])
            chosen, keys = chosen.without(f"{where} (by content)", found), keys.filter(kept)
    return dataclasses.replace(job, train=tuple(chosen.train)), chosen, keys


def _evaluated(store: DataStore | None) -> dict[str, pa.Table]:
    """Keys of a store's evaluation images, by "STORE SPLIT"."""
    if store is None:
        return {}
    keys = store.image_keys([split for split in store.splits if is_evaluation_split(split)])
    return {f"{store.name} {split}": images for split, images in keys.items()}


def check_weights(job: ProposerJob) -> None:
    """Raises UserError where the job's network cannot start from its `weights`."""
    if job.weights:
        load_initial_weights(build_network(job.network, job.selection), job.weights)


def seen_before(options: ProposerTrainingConfig, namespace: str) -> Origin:
    """What the weights to start from saw: the finished ones will have seen that too.

    Raises:
        UserError: --weights-images names what cannot be read.
    """
    if options.weights is None or options.weights_images == ("none",):
        return NOTHING
    if options.weights_images:
        return origin_of(options.weights_images, None, namespace)
    known = origin_of_weights(options.weights)
    return UNKNOWN if known is None else known[1]
