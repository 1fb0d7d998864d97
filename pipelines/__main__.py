"""`mail-ris STAGE ...`, the same as `python -m pipelines STAGE ...`."""

import errno
import sys

from mail.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; 0 only when it did what it says, 2 for wrong input, 130 when interrupted."""
    from pipelines.cli import parse

    try:
        parse(sys.argv[1:] if argv is None else argv).execute()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: no space is left to write to ({error}): make room, then run the same command again",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
