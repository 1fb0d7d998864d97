"""What a person is told of an exception: what went wrong, where and how to mend it, if a person can.

Files, object stores, MLflow with its databases, Ray and devices refuse in their own exceptions, which reach the top of
a stage wherever nobody knew more about them. What is not known here is a bug of ours, and keeps its stack trace.
"""

import errno
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mail import addresses
from mail.data import object_store
from mail.errors import UserError, full_disk
from pipelines.cluster_session.errors import inside, user_error

# a place that cannot be read or written, which is for the person to mend
UNUSABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESTALE,
    errno.EIO,
    errno.EMFILE,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
)
OUT_OF_MEMORY = "give it more, or less at once"
LOWER = {  # what needs the memory of a stage, by its name on the command line
    "train": "--micro-batch-size, --workers or --input-cpus",
    "tune": "--micro-batch-size, --concurrent or --workers",
    "train-proposer": "--batch-size or --workers",
    "precompute": "--batch-size",
    "evaluate": "--batch-images or --workers",
}
RESUMED = ("train", "tune")
SCARCE = 64 * 2**20  # bytes; a disk that has fewer left may be the full one
RAY = {
    "AuthenticationError": "Ray asks for the cluster's token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH",
    "OutOfMemoryError": f"a node of Ray ran out of memory: {OUT_OF_MEMORY}",
    "OutOfDiskError": "a node of Ray has no disk space left for its objects: make room there",
}


def explained(error: BaseException, stage: str = "", places: Sequence[str] = ()) -> str | None:
    """The person's line; None if the error is none that a person can cause.

    Args:
        stage: its name, for what to lower where memory is short. places: that it writes.
    """
    if wrong := user_error(error):
        return str(wrong)
    met = list(inside(error))
    if full := [found for each in met if (found := full_disk(each))]:
        where = next((str(each.filename) for each in full if each.filename), None) or _scarce(places)
        again = "with --resume" if stage in RESUMED else "again"
        return f"{where}: {full[0].strerror}: make room there, then give the same command {again}"
    line = next(filter(None, map(_line, met)), None)
    lower = f"{stage}: lower {LOWER[stage]}" if stage in LOWER else ""
    return f"{line} ({lower})" if line and line.endswith(OUT_OF_MEMORY) and lower else line


def _scarce(places: Sequence[str]) -> str:
    """Of the places of a stage, and where libraries write besides, those whose disks have little room left, or all."""
    written: list[str | Path] = [*places, Path.cwd(), tempfile.gettempdir()]
    local = [p for p in written if addresses.remote_path(p) is None]
    free = {str(p): shutil.disk_usage(next(a for a in (Path(p), *Path(p).parents) if a.exists())).free for p in local}
    return " or ".join([place for place, left in free.items() if left < SCARCE] or free)


def _line(error: BaseException) -> str | None:
    library, kind = type(error).__module__.partition(".")[0], type(error).__name__
    if isinstance(error, UserError):
        return str(error)
    if library == "ray":
        return RAY.get(kind)
    if library in ("mlflow", "sqlalchemy"):
        from pipelines.registry.client import refusal

        return refusal(error)
    if library == "torch" and kind in ("OutOfMemoryError", "AcceleratorError"):
        text = str(error).partition("\n")[0]
        return f"the device gave up ({text})" + (f": {OUT_OF_MEMORY}" if kind == "OutOfMemoryError" else "")
    # torch's allocator of the host says so in a RuntimeError of no other kind
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)):
        return f"this machine is out of memory: {OUT_OF_MEMORY}"
    if isinstance(error, OSError):
        return object_store.refusal(error) or _of_file(error)
    return None


def _of_file(error: OSError) -> str | None:
    if error.errno not in UNUSABLE:
        return None
    return f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())
