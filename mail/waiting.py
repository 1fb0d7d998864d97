"""How long a person waits for a store or a server that does not answer: never silently, and less than a minute."""

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SAY_AFTER = 10.0
GIVE_UP_AFTER = 30.0  # seconds; what is asked last may take as long again as one attempt does
log = logging.getLogger("mail")


def until_answered(ask: Callable[[], T], is_away: Callable[[Exception], bool], what: str) -> T:
    """What `ask` returns. It is asked again, with back-off, while nobody answers; after 10 s a line says so.

    Args:
        is_away: whether this error means that nobody answered, or not yet. what: who is asked, for the line.

    Raises:
        Exception: the last one that `ask` raised, after 30 s; or at once if it is of another kind.
    """
    begun, pause, said = time.monotonic(), 0.2, False
    while True:
        try:
            return ask()
        except Exception as error:
            waited = time.monotonic() - begun
            if waited > GIVE_UP_AFTER or not is_away(error):
                raise
            if waited > SAY_AFTER and not said:
                said = True
                log.warning("%s does not answer: trying for another %.0f s", what, GIVE_UP_AFTER - waited)
        time.sleep(random.uniform(0.5, 1) * pause)
        pause = min(2 * pause, 5.0)
