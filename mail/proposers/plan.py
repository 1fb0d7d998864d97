"""What a proposer's training is, worked out from its options before anything starts."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol

from mail import addresses
from mail.data.coco import CocoInstances
from mail.data.store import DataStore
from mail.errors import UserError
from mail.proposers.dataset import (
    TrainingImages,
    choose_images,
    evaluation_images,
    infer_namespace,
    read_ids,
    store_evaluation_images,
    store_namespace,
)
from mail.proposers.fit import ProposerJob
from mail.proposers.presets import preset
from mail.proposers.training import InstanceImages


class Options(Protocol):
    """The options that decide what is computed (see `pipelines.stages.train_proposer`, which explains each)."""

    preset: Any
    instances: str
    images: str
    steps: int | None
    batch_size: int | None
    learning_rate: float | None
    min_size: int | None
    max_size: int | None
    workers: int
    class_agnostic: bool
    weights: str | None
    weights_images: str | None
    exclude: str | None
    exclude_eval_of: str
    refs_root: Path | None
    exclude_store: str | None
    namespace: str
    holdout_fraction: float
    max_held_out: int
    checkpoint_every: int
    seed: int


def plan_training(options: Options) -> tuple[ProposerJob, TrainingImages]:
    """The job of the workers, and which images it trains on.

    Raises:
        UserError: an option is wrong, or too few images are left.
    """
    recipe = preset(options.preset)
    steps = recipe.steps if options.steps is None else options.steps
    batch_size = recipe.batch_size if options.batch_size is None else options.batch_size
    if steps < 1 or batch_size < max(1, options.workers):
        raise UserError(f"{steps} steps of {batch_size} images for {options.workers} workers: each needs at least one")
    if options.exclude_eval_of and not options.refs_root:
        raise UserError("--exclude-eval-of needs --refs-root, the folder that holds refcoco/refs(unc).p and so on")
    store = DataStore(options.exclude_store) if options.exclude_store else None
    namespace = options.namespace or (store_namespace(store) if store else infer_namespace(options.instances))
    forbidden: dict[str, set[str]] = store_evaluation_images(store) if store else {}
    if options.exclude:
        forbidden[options.exclude] = read_ids(options.exclude, namespace)
    if options.exclude_eval_of:
        forbidden |= evaluation_images(str(options.refs_root), options.exclude_eval_of.split(","), options.namespace)
    coco = CocoInstances(options.instances)
    chosen = choose_images(
        coco,
        namespace,
        forbidden=forbidden,
        holdout_fraction=options.holdout_fraction,
        max_held_out=options.max_held_out,
        seed=options.seed,
    )
    InstanceImages(coco, options.images).image(chosen.train[0])  # a wrong --images is said before anything starts
    network = dataclasses.replace(
        recipe.network,
        categories=recipe.network.categories if options.class_agnostic else tuple(coco.categories.items()),
        min_size=options.min_size or recipe.network.min_size,
        max_size=options.max_size or recipe.network.max_size,
        frozen_norm=options.weights is not None and recipe.network.architecture == "r50-fpn",
    )
    job = ProposerJob(
        network=network,
        selection=recipe.selection,
        instances=addresses.absolute(options.instances),
        images=addresses.absolute(options.images),
        steps=steps,
        batch_size=batch_size,
        learning_rate=options.learning_rate or recipe.learning_rate,
        warm_up=min(recipe.warm_up, steps // 4),
        weight_decay=recipe.weight_decay,
        seed=options.seed,
        weights=options.weights and addresses.absolute(options.weights),
        checkpoint_every=options.checkpoint_every,
        train=tuple(chosen.train),
        held_out=tuple(chosen.held_out),
    )
    return job, chosen


def images_seen(options: Options, chosen: TrainingImages) -> list[str] | None:
    """Ids of all images that make the weights, None if those of `weights` are unknown."""
    if options.weights is None or options.weights_images == "none":
        return chosen.seen
    if options.weights_images is None:
        return None
    return sorted({*chosen.seen, *read_ids(options.weights_images, chosen.namespace)})
