"""What every `prepare` says and records: progress, findings, the summary, and its own config."""

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from mail.data import files
from mail.data.ingest import Findings, Progress
from mail.data.store import DataStore
from mail.errors import UserError
from mail.leakage import check_split
from pipelines.claiming.claim import Claim
from pipelines.ending import EndRequested
from pipelines.options import HubName, Target
from pipelines.stage import Stage
from pipelines.terminal import done, progress_of, say

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclasses.dataclass(kw_only=True)
class StoreStage(Stage, abc.ABC):
    """Base of every stage that writes a data store, which is there in full or not at all."""

    out: Target
    """Data store to write: a folder or an s3:// address."""

    def tell_kept(self, end: EndRequested) -> None:
        with contextlib.suppress(OSError, UserError):
            filesystem, root = files.resolve(self.out)
            there = files.exists(filesystem, f"{root}/store.json")
            end.kept = f"the store {self.out} is written in full" if there else "no part of a store is kept"


@dataclasses.dataclass(kw_only=True)
class PrepareStage(StoreStage, abc.ABC):
    """Base of every `prepare` that reads expressions."""

    tokenizer: HubName | None = None
    """BERT vocabulary (file, folder, hub name) or MODEL: how many of the words it does not know, and how many sentences
    it takes more pieces for than the network reads, is measured and said."""


def write(
    stage: PrepareStage, write_store: Callable[..., tuple[DataStore, Findings]], *inputs: Any, **options: Any
) -> Any:
    """Has a store written that records the stage's config, says every finding and prints the summary.

    Args:
        write_store: of a kind of data set; takes `inputs`, `options`, `prepared_with` and `progress`.
        inputs: the last is where the store goes.

    Returns:
        The store.
    """
    tokenizer = None
    if stage.tokenizer not in (None, "none"):
        from mail.model import load_tokenizer  # torch is only imported where it is needed

        tokenizer = load_tokenizer(stage.tokenizer)
    with owned(inputs[-1], "images read") as progress:
        store, findings = write_store(*inputs, **options, prepared_with=record(stage), progress=progress)
    for line in findings.lines():
        say(line)
    if tokenizer is not None:
        from mail.model import MailConfig, TextCoverage

        texts = store.expressions(columns=["text"])["text"].to_pylist()
        say(TextCoverage.of(tokenizer, texts, MailConfig().max_text_length).describe())
    for line in check_split(store, "train", allow_leaky=True).remarks:
        say(line)
    splits = ", ".join(f"{name} {count['expressions']}" for name, count in store.splits.items())
    refs = sum(count["refs"] for count in store.splits.values())
    done(
        f"wrote {store.uri}: {store.name}, {findings.images} images, {refs} refs, {findings.expressions} expressions "
        f"({splits}), digest {store.digest[:12]}"
    )
    return store


@contextlib.contextmanager
def owned(out: str, what: str) -> Iterator[Progress]:
    """A block that writes a store, alone; shows the progress that it is told, and asks meanwhile whether it still may.

    Raises:
        UserError: another process writes there.
    """
    with Claim(out, f"the data store {out}", "another --out") as claim, progress_of(what) as show:

        def progress(finished: int, total: int) -> None:
            claim.alive()
            show(finished, total)

        yield progress


def record(stage: Stage) -> dict[str, Any]:
    """The config as `store.json` keeps it."""
    config = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(stage).items()}
    config.pop("dry_run")
    return {"stage": type(stage).__name__, **config}
