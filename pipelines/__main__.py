"""`mail-ris STAGE ...`, the same as `python -m pipelines STAGE ...`."""

import errno
import sys

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


if __name__ == "__main__":
    sys.exit(main())
