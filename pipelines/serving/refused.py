"""Why a request is not answered: a status, a code for programs and one line for a person."""

from typing import Any


class Refused(Exception):
    """A request that is turned away.

    Attributes:
        status: of HTTP. code: one word, also the reason under which it is counted.
        retry_after: seconds after which it may go better, None where it will not.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None):
        super().__init__(status, code, message, retry_after)  # what it is made of anew in another process
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self) -> dict[str, Any]:
        return {"error": {"code": self.code, "message": self.message}}


def not_loaded(why: str = "") -> Refused:
    return Refused(503, "not_loaded", f"no model is loaded{': ' + why if why else ' yet'}", 5)
