"""`mail-ris STAGE ...`, the same as `python -m pipelines STAGE ...`."""

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

from pipelines.surroundings import give_a_home, in_the_way


def main(argv: list[str] | None = None) -> int:
    """Runs one stage; 0 only when it did what it says, 2 for wrong input, 130, 143 or 129 when asked to end."""
    if wrong := in_the_way():
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    give_a_home()
    from mail.addresses import without_secrets
    from pipelines import ending

    sys.excepthook = _trace
    given = sys.argv[1:] if argv is None else argv
    stage = None
    try:
        with ending.owned(), _quiet_when_nobody_reads():
            try:
                from pipelines.cli import parse  # these take a second, in which somebody may press Ctrl-C
                from pipelines.terminal import listen

                listen()
                stage = parse(given)
                stage.execute()
            except ending.EndRequested as end:
                with contextlib.suppress(OSError):  # the terminal may be gone
                    print(without_secrets(end.advice(given)), file=sys.stderr, flush=True)
                if argv is None:  # this process is the stage's own
                    ending.leave(128 + end.signal)
                return 128 + end.signal
    except Exception as error:
        from pipelines.refusals import explained

        line = explained(error, given[0] if given else "", stage.targets() if stage else ())
        if line is None:
            raise
        print(f"error: {without_secrets(line)}", file=sys.stderr)
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


def _trace(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    from mail.addresses import without_secrets

    print(without_secrets("".join(traceback.format_exception(kind, error, at))), end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
