"""`mail-ris prepare mix`: several data stores as one to train on, without each other's evaluation images."""

from dataclasses import dataclass
from typing import Any

from mail.data.mix import mix
from mail.data.store import DataStore
from mail.data.store_writer import DataStoreWriter
from mail.errors import UserError
from mail.leakage import check_leakage, overlaps
from pipelines.options import Address
from pipelines.stages.prepare.report import Flag, StoreStage, owned, record
from pipelines.terminal import done, say


@dataclass(kw_only=True)
class PrepareMix(StoreStage):
    """Several data stores as one to train on; what any of them evaluates on loses its training expressions."""

    stores: tuple[Address, ...]
    """The data stores to put together (local or s3://)."""
    held_out: tuple[Address, ...] = ()
    """Data stores whose val and test images must not be trained on either, though they are not put in."""
    name: str = "mix"
    """Name of the mixture."""
    strict: Flag = False
    """Fail if a training image is an evaluation image, instead of leaving it out."""

    def _stores(self) -> tuple[list[DataStore], list[DataStore]]:
        DataStoreWriter(self.out, self.name)  # refuses to overwrite a finished store
        return [DataStore(uri) for uri in self.stores], [DataStore(uri) for uri in self.held_out]

    def plan(self) -> dict[str, Any]:
        stores, held_out = self._stores()
        train = {s.name: s.image_keys(["train"])["train"] for s in stores if "train" in s.splits}
        return {
            "name": self.name,
            "stores": {s.name: s.splits for s in stores},
            "evaluation_images": sum(
                n["images"] for s in [*stores, *held_out] for k, n in s.splits.items() if k != "train"
            ),
            "trained_and_evaluated": {
                f"{name} train": {s.name: found for s in [*stores, *held_out] if (found := overlaps(keys, s))}
                for name, keys in train.items()
            },
        }

    def run(self) -> DataStore:
        stores, held_out = self._stores()
        if self.strict:
            found = [
                f"{count} images of {trained} are in {store} {split}"
                for trained, by_store in self.plan()["trained_and_evaluated"].items()
                for store, by_split in by_store.items()
                for split, count in by_split.items()
            ]
            if found:
                raise UserError(f"{'; '.join(found)}. Without --strict they are left out of the training")
        with owned(self.out, "images mixed") as progress:
            mixture = mix(stores, self.out, self.name, held_out, record(self), progress)
        for (store, where), (images, expressions) in mixture.left_out.items():
            say(f"left out: {expressions} training expressions of {store} on {images} images of {where}")
        for (store, other), (images, expressions) in mixture.other_files.items():
            say(f"left out: {expressions} expressions of {store} on {images} photos of which {other} has another file")
        trained = mixture.store.image_keys(["train"])["train"]
        for evaluated in [mixture.store, *held_out]:
            for remark in check_leakage(trained, evaluated, what=f"a model of {self.name}").remarks:
                say(remark)
        splits = ", ".join(f"{name} {count['expressions']}" for name, count in mixture.store.splits.items())
        done(
            f"wrote {mixture.store.uri}: {mixture.store.name}, {mixture.store.manifest['image_count']} images, "
            f"expressions {splits}; {mixture.expressions} training expressions on {mixture.images} evaluation images "
            f"left out, digest {mixture.store.digest[:12]}"
        )
        return mixture.store
