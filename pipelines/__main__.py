"""`mail-ris STAGE ...`, the same as `python -m pipelines STAGE ...`."""

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Iterator

from mail.errors import UserError

# a place that cannot be read or written, which is for the person to mend
UNUSABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EROFS,
    errno.ENOSPC,
    errno.ENAMETOOLONG,
)


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; 0 only when it did what it says, 2 for wrong input, 130 when interrupted."""
    from pipelines.cli import parse

    try:
        with _quiet_when_nobody_reads():
            parse(sys.argv[1:] if argv is None else argv).execute()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        where = f"{error.filename}: {error.strerror}" if error.filename else " ".join(str(error).split())
        print(f"error: {where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """Ends as other programs do, with 141 and without a word, when the reader of standard output is gone (`| head`)."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), select.POLLOUT)
        if not any(event & select.POLLERR for _, event in output.poll(0)):
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        raise SystemExit(128 + signal.SIGPIPE) from None


if __name__ == "__main__":
    sys.exit(main())
