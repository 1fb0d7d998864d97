"""Which images of an instances file a proposer is trained on, which are held out, and which must not be seen."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mail import addresses
from mail.data import refer
from mail.data.coco import CocoInstances
from mail.data.schema import is_evaluation_split
from mail.data.store import DataStore
from mail.errors import UserError


@dataclass(frozen=True)
class TrainingImages:
    """COCO image ids by what they are for.

    Attributes:
        excluded: by reason, how many of the annotated images it forbids; the same image may have several reasons.
        left_out: how many were left out in all.
        assumed: names of the photos for which `exif_annotated` says how they were annotated, as their size does not.
    """

    namespace: str
    train: list[int]
    held_out: list[int]
    excluded: dict[str, int]
    left_out: int
    assumed: tuple[str, ...] = ()

    @property
    def seen(self) -> list[str]:
        """The ids under which the leak firewall knows the training images: "coco/520199"."""
        return [f"{self.namespace}/{i}" for i in self.train]

    def without(self, reason: str, images: set[int]) -> "TrainingImages":
        """The same, less some of the training images.

        Raises:
            UserError: no others are left.
        """
        train = [i for i in self.train if i not in images]
        if not train:
            raise UserError(f"no image is left to train on: all are excluded by {reason}")
        excluded = self.excluded | {reason: self.excluded.get(reason, 0) + len(images)}
        return replace(self, train=train, excluded=excluded, left_out=self.left_out + len(images))


def choose_images(
    coco: CocoInstances,
    namespace: str,
    *,
    forbidden: dict[str, set[str]],
    holdout_fraction: float,
    max_held_out: int,
    seed: int,
) -> TrainingImages:
    """Splits the annotated images into training and held-out ones, without the forbidden.

    Args:
        forbidden: image ids ("coco/520199") by the reason that messages name.

    Raises:
        UserError: too few images are left.
    """
    annotated = set(coco.image_ids.tolist())
    candidates = [i for i in coco.images if i in annotated]
    excluded: dict[str, int] = {}
    for reason, ids in forbidden.items():
        excluded[reason] = sum(f"{namespace}/{i}" in ids for i in annotated)
        candidates = [i for i in candidates if f"{namespace}/{i}" not in ids]
    left_out = len(annotated.intersection(coco.images)) - len(candidates)
    shuffled = sorted(candidates, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    held_out = min(max_held_out, round(len(shuffled) * holdout_fraction))
    train = sorted(shuffled[held_out:])
    if not train:
        raise UserError(
            f"{coco.path}: no image is left to train on: {left_out + len(candidates)} of its {len(coco.images)} have "
            f"annotations, {left_out} of them are excluded and {held_out} held out (see --holdout-fraction)"
        )
    return TrainingImages(namespace, train, sorted(shuffled[:held_out]), excluded, left_out)


def infer_namespace(instances: str) -> str:
    """What image ids of an instances file begin with: "coco", as all published data sets share COCO's photos.

    Raises:
        UserError: generated scenes, whose ids carry their seed ("synthetic/0/12"); a guess could hide a leak.
    """
    if Path(addresses.absolute(instances)).parent.name != "synthetic":
        return "coco"
    raise UserError(
        f"{instances} are generated scenes, whose image ids carry their seed: name --exclude-store STORE (the store "
        "that was prepared from them), or --namespace synthetic/SEED"
    )


def store_namespace(store: DataStore) -> str:
    """What the image ids of a store begin with.

    Raises:
        UserError: they do not all begin alike.
    """
    ids = store.image_index["image_id"].to_pylist()
    found = sorted({i.rpartition("/")[0] for i in ids})
    if len(found) != 1:
        raise UserError(f"image ids of {store.uri} begin with {', '.join(found[:3])}: say which with --namespace")
    return found[0]


def evaluation_images(root: str, datasets: Sequence[str], namespace: str = "") -> dict[str, set[str]]:
    """Images of all evaluation splits of published data sets, by "refcoco(unc) testA".

    Args:
        root: the folder that holds `refcoco/refs(unc).p` and so on; every refs file of a data set counts.
        namespace: what their image ids begin with, where it cannot be inferred.

    Raises:
        UserError: a data set has no refs file there.
    """
    found: dict[str, set[str]] = {}
    for dataset in datasets:
        folder = addresses.local_path(root) / dataset
        paths = sorted(p for p in folder.glob("*refs(*)*") if p.suffix in (".p", ".json"))
        if not paths:
            raise UserError(f"{folder} has no refs(*.p) file: its evaluation images are unknown")
        begin = namespace or infer_namespace(str(folder / "instances.json"))
        for path in paths:
            name = f"{dataset}({path.name.partition('(')[2].partition(')')[0]})"
            for ref in refer.read_refs(path):
                if is_evaluation_split(ref.split):
                    found.setdefault(f"{name} {ref.split}", set()).add(f"{begin}/{ref.image_id}")
    return found
