"""What a run reads as MLflow's datasets: its page shows them, runs and models are found by their name and digest.

    client.search_runs([experiment], "dataset.name = 'refcoco' AND dataset.context = 'training'")
    mlflow.data.get_source(run.inputs.dataset_inputs[0]).load()

Name and digest are a dataset's identity: a copy of it elsewhere is the same one, at the address that was noted first.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mail import addresses
from mail.data.mask_snapshot import MaskSnapshot
from mail.data.store import DataStore

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

DIGEST_LENGTH = 36  # MLflow takes no longer one; the whole digest is in the profile


def short_digest(digest: str) -> str:
    """A digest as MLflow knows it, of a dataset or beside a metric."""
    return digest[:DIGEST_LENGTH]


def training_inputs(store: DataStore, snapshot: MaskSnapshot | None) -> "list[DatasetInput]":
    """The inputs of a training run: the data store and, where the network uses them, the masks of one proposer."""
    splits = {name: counts["expressions"] for name, counts in store.splits.items()}
    profile = {"images": store.manifest["image_count"], "expressions": splits}
    inputs = [_input("training", store.name, store.digest, store.uri, profile)]
    if snapshot is not None:
        inputs.append(_input("masks", snapshot.proposer_id, snapshot.digest, snapshot.uri, snapshot.lineage))
    return inputs


def recorded_inputs(origin: Mapping[str, Any]) -> "list[DatasetInput]":
    """The same of a model's lineage: what it was trained on need not be there any more."""
    store, masks = origin.get("data_store") or {}, origin.get("mask_table") or {}
    named = [("training", store, "name", {}), ("masks", masks, "proposer_id", masks)]
    return [
        _input(context, record[name], record["digest"], record["uri"], dict(profile))
        for context, record, name, profile in named
        if record.keys() >= {name, "digest", "uri"}
    ]


def _input(context: str, name: str, digest: str, uri: str, profile: dict[str, Any]) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name,
        digest=short_digest(digest),
        source_type="local" if addresses.remote_path(uri) is None else "s3",
        source=json.dumps({"uri": uri}),
        profile=json.dumps({**profile, "digest": digest}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
