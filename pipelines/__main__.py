"""`mail-ris STAGE ...`, the same as `python -m pipelines STAGE ...`."""

import sys
import traceback
from types import TracebackType

from mail.addresses import without_secrets


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; 0 only when it did what it says, 2 for wrong input, 130 when interrupted."""
    from pipelines.cli import parse
    from pipelines.terminal import listen

    sys.excepthook = _trace
    listen()
    try:
        parse(sys.argv[1:] if argv is None else argv).execute()
    except Exception as error:
        from pipelines.refusals import explained

        line = explained(error)
        if line is None:
            raise
        print(f"error: {without_secrets(line)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def _trace(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    print(without_secrets("".join(traceback.format_exception(kind, error, at))), end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
