"""Which version is the champion, decided one after another although MLflow can only set an alias, not compare and set.

The decisions are the versions of a registered model of their own, `NAME.champions`: the database numbers them, so they
are one sequence that everybody reads alike. An entry names the entry it was decided `after`; it counts only if that is
the newest one that counts. Of two promotions that were compared with the same champion, the second one's entry
therefore never counts, whichever process is slow, dies, or has a wrong clock: nobody holds a lock.

The alias follows the sequence. Whoever finds the newest entry without its alias (its writer was killed) sets it, and
whoever set the alias looks again whether a newer entry has come meanwhile.
"""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from mail.addresses import without_secrets
from mail.errors import UserError
from pipelines.registry.client import ATTEMPTS, answers, connect, pause, registry_uri, surely
from pipelines.registry.models import CHAMPION, MODEL_NAME, SCHEME

MAX_HISTORY = 200


@dataclass(frozen=True)
class Reign:
    """The state after an entry.

    Attributes:
        number: the entry's (0: there is none yet).
        champion: version, None if there is none.
        history: champions before it, oldest first; what `rollback` goes back through.
        settled: the alias has followed.
    """

    number: int = 0
    champion: str | None = None
    history: tuple[str, ...] = ()
    settled: bool = True
    token: str = field(default="", repr=False)


class Champions:
    """The sequence of champions of a registered model."""

    def __init__(self, name: str = MODEL_NAME):
        self.name, self.log = name, f"{name}.champions"
        self.client = connect()

    def current(self) -> Reign:
        """The state now, with the alias where it belongs. An alias that somebody moved by hand is respected.

        Raises:
            UserError: no model of this name is registered.
        """
        with answers():
            newest = self._counting()[-1]
            if not newest.settled:
                return self.settle(newest)
            alias = self._alias()
        if alias == newest.champion:
            return newest
        # set in MLflow's own page, or before there was a sequence
        before = [*newest.history, *([newest.champion] if newest.champion else [])]
        return Reign(newest.number, alias, tuple(v for v in before if v != alias))

    def append(self, after: Reign, version: str, history: tuple[str, ...], **facts: Any) -> Reign | None:
        """Makes `version` the champion that follows `after`; None if another decision came first.

        Args:
            facts: kept with the entry, as JSON.
        """
        token = uuid.uuid4().hex
        tags = {
            "after": str(after.number),
            "champion": version,
            "history": json.dumps(list(history[-MAX_HISTORY:])),
            "token": token,
            **{key: json.dumps(value) for key, value in facts.items()},
        }
        with answers():
            if self._alias() != after.champion:
                return None  # decided by others, or moved by hand
            self._ensure_log()
            mine = self._create(version, tags, token)
        return None if mine is None else self.settle(mine)

    def settle(self, reign: Reign) -> Reign:
        """Lets the alias follow a counting entry, or a newer one if there is; returns the newest."""
        while True:
            surely(self.client.set_registered_model_alias, self.name, CHAMPION, reign.champion)
            surely(self.client.set_model_version_tag, self.log, str(reign.number), "settled", "true")
            newest = self._counting()[-1]
            if newest.number == reign.number:
                return newest
            reign = newest

    def _create(self, version: str, tags: dict[str, str], token: str) -> Reign | None:
        """Appends the entry once, though an answer may get lost or the database be busy."""
        from mlflow.exceptions import MlflowException

        for attempt in range(ATTEMPTS):
            try:
                self.client.create_model_version(self.log, f"{SCHEME}{self.name}/{version}", tags=tags)
                break
            except MlflowException:
                pause(attempt)
                if any(e.tags.get("token") == token for e in self._entries()):
                    break
                if attempt == ATTEMPTS - 1:
                    raise
        return next((r for r in self._counting() if r.token == token), None)

    def _counting(self) -> list[Reign]:
        """The states after each entry that counts, the empty one first."""
        states = [Reign()]
        for entry in self._entries():
            if int(entry.tags.get("after", -1)) == states[-1].number:
                history = tuple(json.loads(entry.tags["history"]))
                settled = "settled" in entry.tags
                token = entry.tags["token"]
                states.append(Reign(int(entry.version), entry.tags["champion"], history, settled, token))
        return states

    def _entries(self) -> list[Any]:
        import mlflow

        found = mlflow.search_model_versions(filter_string=f"name = '{self.log}'")
        return sorted(found, key=lambda v: int(v.version))

    def _alias(self) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_registered_model(self.name).aliases.get(CHAMPION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"no model {self.name!r} is registered at {without_secrets(registry_uri())}") from None
        return None if found is None else str(found)

    def _ensure_log(self) -> None:
        from mlflow.exceptions import MlflowException

        if self._entries():
            return
        said = f"The champions of {self.name} in order, written by `mail-ris models promote` and `rollback`."
        try:
            self.client.create_registered_model(self.log, description=said)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
