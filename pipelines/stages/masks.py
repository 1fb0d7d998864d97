"""`mail-ris masks status|verify|retry|compact|gc --masks TABLE`: looks after the mask table."""

import dataclasses
import json as json_format
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from mail.data import files
from mail.data.mask_snapshot import read_origin
from mail.data.mask_table import MaskTable
from mail.data.mask_upkeep import STATUSES, collect, compact, problems, reasons, seconds_per_image, status, verify
from mail.data.store import DataStore
from mail.errors import UserError
from mail.proposers.quality import proposal_quality
from pipelines.options import Address, Target
from pipelines.precomputing.config import PrecomputeConfig
from pipelines.registry.client import answers, connect
from pipelines.registry.run_log import flatten, start_run
from pipelines.stage import Stage
from pipelines.terminal import done, progress_of, say

if TYPE_CHECKING:
    from pipelines.precomputing.precompute import Precomputation

SHOWN_PROBLEMS = 10


@dataclasses.dataclass(kw_only=True)
class _OfTable(Stage):
    masks: Address
    """The mask table (local or s3://)."""

    def _open(self) -> MaskTable:
        table = MaskTable(self.masks)
        if table.head().version == 0:
            raise UserError(f"{self.masks} is not a mask table: it has no commits (run `mail-ris precompute` first)")
        return table


@dataclasses.dataclass(kw_only=True)
class MasksStatus(_OfTable):
    """What a mask table holds, and how good it is for a data store."""

    proposer_id: str | None = None
    """Only this proposer's rows (needed with --data and --against if there are several)."""

    data: Address | None = None
    """A data store: says how many of its images are still pending."""

    against: Address | None = None
    """A data store: measures how many of its referents the masks cover (reads all masks of its splits), and writes the
    figures to MLflow."""

    splits: tuple[str, ...] = ()
    """Splits that --against measures (default: all)."""

    json: Target | None = None
    """Also write the report to this file."""

    def plan(self) -> dict[str, Any]:
        return {"version": self._open().head().version}

    def run(self) -> dict[str, Any]:
        _check_json(self.json)
        table = self._open()
        head = table.head()
        report: dict[str, Any] = {"masks": self.masks, "version": head.version, "digest": head.digest, "proposers": {}}
        for entry in status(table, head):
            if self.proposer_id not in (None, entry.proposer_id):
                continue
            seconds = seconds_per_image(table, entry.proposer_id)
            report["proposers"][entry.proposer_id] = {**dataclasses.asdict(entry), "seconds_per_image": seconds}
            counts = ", ".join(f"{n} {s}" for s, n in entry.statuses.items())
            origin = read_origin(table.uri, entry.proposer_id)
            report["proposers"][entry.proposer_id]["saw"] = str(origin)
            label = f", saw {origin}" + (", leaky" if entry.proposer.get("leaky") else "")
            say(
                f"{entry.proposer_id}: {entry.rows} images ({counts}), {entry.files} files, "
                f"{entry.bytes:,} bytes{label}" + (f", {seconds * 1000:.1f} ms an image" if seconds else "")
            )
            counted = reasons(problems(table, entry.proposer_id))
            for reason in counted[:SHOWN_PROBLEMS]:
                say(f"  {reason.status}: {reason.count} x {reason.error}, first {reason.first}")
            report["proposers"][entry.proposer_id]["reasons"] = {
                status: {r.error: r.count for r in counted if r.status == status}
                for status in {r.status for r in counted}
            }
        if self.data or self.against:
            snapshot = table.snapshot(self.proposer_id)
        if self.data:
            ids = DataStore(self.data).image_index["image_id"]
            report["pending"] = len(table.pending(ids, snapshot.proposer_id))
            say(f"{report['pending']} of {len(ids)} images of {self.data} are pending for {snapshot.proposer_id}")
        if self.against:
            report["quality"] = quality = proposal_quality(DataStore(self.against), snapshot, self.splits or None)
            for name, numbers in [*quality["splits"].items(), ("all", quality)]:
                if not numbers["expressions"]:
                    say(f"{name}: not measured, for no expression has a target")
                    continue
                say(
                    f"{name}: recall@.5 {numbers['proposal_recall_50']:.3f}, @.75 {numbers['proposal_recall_75']:.3f}, "
                    f"oracle mIoU {numbers['oracle_mIoU']:.3f} of {numbers['expressions']} expressions"
                )
            say(f"{quality['proposals_per_image']:.1f} proposals an image")
        _write_json(self.json, report)
        if self.against:
            quality["seconds_per_image"] = report["proposers"][snapshot.proposer_id]["seconds_per_image"]
            run_id = _log_quality(quality, {"masks": snapshot.lineage, "data": DataStore(self.against).digest})
            say(f"MLflow run {run_id} has these figures")
        done(f"{self.masks}: version {head.version}, {sum(f.rows for f in head.files.values())} rows")
        return report


@dataclasses.dataclass(kw_only=True)
class MasksVerify(_OfTable):
    """Reads every data file and checks digests, schema, uniqueness, masks, boxes and sizes."""

    data: Address | None = None
    """A data store: also compares sizes and digests of its images with the rows'."""

    json: Target | None = None
    """Also write what was found to this file."""

    def plan(self) -> dict[str, Any]:
        head = self._open().head()
        return {"version": head.version, "files": len(head.files), "bytes": sum(f.bytes for f in head.files.values())}

    def run(self) -> list[str]:
        _check_json(self.json)
        table = self._open()
        found = []
        with progress_of("files verified") as progress:
            for wrong in verify(table, DataStore(self.data) if self.data else None, progress):
                found.append(wrong)
                if len(found) <= 20:
                    say(wrong)
        head = table.head()
        rows = sum(f.rows for f in head.files.values())
        _write_json(self.json, {"masks": self.masks, "version": head.version, "rows": rows, "wrong": found})
        if found:
            raise UserError(f"{self.masks}: {len(found)} things are wrong in {rows} rows, first: {found[0]}")
        done(f"{self.masks}: version {head.version}, {rows} rows in {len(head.files)} files, all right")
        return found


@dataclasses.dataclass(kw_only=True)
class MasksRetry(PrecomputeConfig, Stage):
    """Computes images again that could not be used; their new rows replace the old ones."""

    status: str = "decode_error"
    """Which rows, by status, separated by commas: decode_error, too_large, proposer_error."""

    max_error_rate: float = 1.0
    """If more than this share of the images still cannot be used, the run fails, after committing everything."""

    def _precomputation(self) -> "Precomputation":
        from pipelines.precomputing.precompute import Precomputation

        return Precomputation.open(self, self._chosen)

    def plan(self) -> dict[str, Any]:
        return self._precomputation().describe()

    def run(self) -> dict[str, Any]:
        return self._precomputation().run()

    def _chosen(self, opened: "Precomputation") -> pa.Array:
        wanted = set(self.status.split(","))
        if unknown := wanted - set(STATUSES):
            raise UserError(f"there is no status {', '.join(sorted(unknown))}: there are {', '.join(STATUSES)}")
        found = problems(opened.table, opened.folder.proposer_id, wanted)
        ids = pa.array([p.image_id for p in found], pa.string())
        return ids.filter(pc.is_in(ids, value_set=opened.store.image_index["image_id"]))


@dataclasses.dataclass(kw_only=True)
class MasksCompact(_OfTable):
    """Merges small data files into larger ones; snapshots that were taken before stay readable until `gc`."""

    target_mb: int = 64
    """Size of the merged files."""

    def plan(self) -> dict[str, Any]:
        return dict(zip(("files", "merged_into"), self._compact(dry_run=True), strict=True))

    def run(self) -> tuple[int, int]:
        before, after = self._compact(dry_run=False)
        done(f"{self.masks}: merged {before} files into {after}")
        return before, after

    def _compact(self, dry_run: bool) -> tuple[int, int]:
        return compact(self._open(), self.target_mb * 2**20, dry_run)


@dataclasses.dataclass(kw_only=True)
class MasksGc(_OfTable):
    """Deletes data files that no version within the age limit names. Only lists them unless --delete is given."""

    older_than: float = 7.0
    """Age limit in days (whole hours are counted): what was readable within it, or written within it, stays."""

    delete: bool = False
    """Really delete."""

    def plan(self) -> dict[str, Any]:
        chosen = self._collect(delete=False)
        return {"files": len(chosen), "bytes": sum(size for _, size in chosen)}

    def run(self) -> list[str]:
        chosen = self._collect(self.delete)
        for path, size in chosen:
            say(f"{'deleted' if self.delete else 'would delete'} {path} ({size:,} bytes)")
        total = sum(size for _, size in chosen)
        verb = "deleted" if self.delete else "--delete would delete"
        done(f"{self.masks}: {verb} {len(chosen)} files, {total:,} bytes")
        return [path for path, _ in chosen]

    def _collect(self, delete: bool) -> list[tuple[str, int]]:
        if self.older_than < 0:
            raise UserError("--older-than is a number of days, 0 or more")
        return collect(self._open(), timedelta(days=self.older_than), delete)


MASKS: dict[str, type[Stage]] = {
    "status": MasksStatus,
    "verify": MasksVerify,
    "retry": MasksRetry,
    "compact": MasksCompact,
    "gc": MasksGc,
}


def _log_quality(quality: dict[str, Any], origin: dict[str, Any]) -> str:
    """Records the figures as an MLflow run of its own, with what they were measured on; returns its id."""
    from mlflow.entities import Metric

    proposer_id = origin["masks"]["proposer_id"]
    tags = {"stage": "masks status", "leaky": str(origin["masks"]["leaky"]).lower(), "proposer_id": proposer_id}
    run_id = start_run(f"masks {proposer_id}", origin, tags)
    figures = {k.replace(".", "/"): v for k, v in flatten(quality).items() if v is not None}
    now = int(time.time() * 1000)
    with answers():
        client = connect()
        client.log_batch(run_id, metrics=[Metric(k, float(v), now, 0) for k, v in figures.items()])
        client.set_terminated(run_id)
    return run_id


def _check_json(path: str | None) -> None:
    if path:
        files.check_file_writable(path)


def _write_json(path: str | None, report: dict[str, Any]) -> None:
    if path:
        files.write_bytes(*files.resolve(path), json_format.dumps(report, indent=2).encode())
