"""How long planning a rerun over a large mask table takes, and how much memory: `python -m benchmarks.plan_masks`.

Makes a table of --rows rows with made-up ids in --files data files (or takes the one that --table names and an earlier
run left), then asks, in a new process, which of these ids and --new others are pending. Claim: 10 million rows and
10,000 new ids in less than a minute and 4 GiB.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from mail.data import schema
from mail.data.mask_table import MaskTable

PROPOSER_ID = "maskrcnn-r50-fpn-v2-0123456789ab"


def make_ids(first: int, last: int) -> pa.Array:
    """Ids that do not come in the order of their numbers, as strings do not."""
    scrambled = np.arange(first, last, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return pa.array([f"web/{v:016x}" for v in scrambled.tolist()], pa.string())


def make_rows(image_ids: pa.Array) -> pa.Table:
    count = len(image_ids)
    columns = {
        "image_id": image_ids,
        "proposer_id": pa.repeat(PROPOSER_ID, count),
        "image_sha256": pa.repeat("0" * 64, count),
        "height": pa.repeat(pa.scalar(480, pa.int32()), count),
        "width": pa.repeat(pa.scalar(640, pa.int32()), count),
        "status": pa.repeat("ok", count),
        "error": pa.nulls(count, pa.string()),
        "instances": pa.array([[]] * count, schema.MASKS.field("instances").type),
    }
    return pa.table(columns, schema=schema.MASKS)


def make_table(uri: str, rows: int, files: int) -> None:
    table = MaskTable(uri)
    edges = np.linspace(0, rows, files + 1).astype(int)
    written = [table.write(make_rows(make_ids(a, b))) for a, b in itertools.pairwise(edges)]
    # the files' key ranges all overlap, which is the worst case; ids are distinct by construction
    table.commit(written, {"id": PROPOSER_ID})


def plan(uri: str, rows: int, new: int) -> dict[str, float]:
    wanted = make_ids(0, rows + new)
    started = time.perf_counter()
    pending = MaskTable(uri).pending(wanted, PROPOSER_ID)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "benchmark": "plan_masks",
        "rows": rows,
        "pending": len(pending),
        "plan_seconds": round(seconds, 1),
        "peak_GiB": round(peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--new", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--table", default="", help="keep the table in this folder, or use the one that is there")
    parser.add_argument("--plan-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan_only:
        print(json.dumps(plan(options.table, options.rows, options.new)))
        return
    with tempfile.TemporaryDirectory() as folder:
        table = options.table or folder
        if not (Path(table) / "_delta_log").exists():
            started = time.perf_counter()
            make_table(table, options.rows, options.files)
            print(f"made the table in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.plan_masks", "--plan-only", "--table", table]
        subprocess.run([*command, "--rows", str(options.rows), "--new", str(options.new)], check=True)


if __name__ == "__main__":
    main()
