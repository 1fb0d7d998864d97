"""What a person is told of an exception: what went wrong, where and how to mend it, if a person can.

Files, object stores, MLflow with its databases, Ray and devices refuse in their own exceptions, which reach the top of
a stage wherever nobody knew more about them. What is not known here is a bug of ours, and keeps its stack trace.
"""

import errno
from collections.abc import Iterator

from mail.data import object_store
from mail.errors import UserError
from pipelines.cluster_session.errors import user_error

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
RAY = {
    "AuthenticationError": "Ray asks for the cluster's token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH",
    "OutOfMemoryError": f"a node of Ray ran out of memory: {OUT_OF_MEMORY}",
    "OutOfDiskError": "a node of Ray has no disk space left for its objects: make room there",
}


def explained(error: BaseException, stage: str = "") -> str | None:
    """The person's line; None if the error is none that a person can cause.

    Args:
        stage: its name, for what to lower where memory is short.
    """
    if wrong := user_error(error):
        return str(wrong)
    line = next(filter(None, map(_line, _chain(error))), None)
    lower = f"{stage}: lower {LOWER[stage]}" if stage in LOWER else ""
    return f"{line} ({lower})" if line and line.endswith(OUT_OF_MEMORY) and lower else line


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what Ray wrapped in it, and what it was raised from."""
    while isinstance(error, BaseException):
        yield error
        error = getattr(error, "cause", None) or error.__cause__


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
