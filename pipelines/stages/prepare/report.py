"""What every `prepare` says and records: progress, findings, the summary, and its own config."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from mail.data.ingest import Findings
from mail.data.store import DataStore
from pipelines.stage import Stage
from pipelines.terminal import done, progress_of, say

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


def write(stage: Stage, write_store: Callable[..., tuple[DataStore, Findings]], *inputs: Any, **options: Any) -> Any:
    """Has a store written that records the stage's config, says every finding and prints the summary.

    Args:
        write_store: of a kind of data set; takes `inputs`, `options`, `prepared_with` and `progress`.

    Returns:
        The store.
    """
    with progress_of("images read") as progress:
        store, findings = write_store(*inputs, **options, prepared_with=record(stage), progress=progress)
    for line in findings.lines():
        say(line)
    splits = ", ".join(f"{name} {count['expressions']}" for name, count in store.splits.items())
    refs = sum(count["refs"] for count in store.splits.values())
    done(
        f"wrote {store.uri}: {store.name}, {findings.images} images, {refs} refs, {findings.expressions} expressions "
        f"({splits}), digest {store.digest[:12]}"
    )
    return store


def record(stage: Stage) -> dict[str, Any]:
    """The config as `store.json` keeps it."""
    config = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(stage).items()}
    config.pop("dry_run")
    return {"stage": type(stage).__name__, **config}
