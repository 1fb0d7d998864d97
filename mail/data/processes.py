"""Processes beside this one, for work that threads of one Python would have to take in turns."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from mail.errors import UserError


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """So many processes, started as new ones: a script calls this below `if __name__ == "__main__"`.

    At its end nothing more is begun; a process ends with the one that started it, however that one ends.

    Raises:
        UserError: one of them was ended from outside.
    """
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "a process beside this one was ended from outside, most likely for want of memory: run it again "
            '(a script of your own calls this below `if __name__ == "__main__"`)'
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Ctrl-C is the parent's to answer, and no process outlives a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
