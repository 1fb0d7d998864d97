"""Which model a replica serves: an alias is followed, and what does not load leaves the old version serving.

A new version is loaded beside the old one and warmed by a photo; then it takes over, between two batches. Every answer
carries the version that gave it.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mail import lineage
from mail.answering import Answered, Engine, Question
from mail.errors import UserError
from mail.inference import Predictor
from pipelines.registry.champions import Champions
from pipelines.registry.client import answers, first_line
from pipelines.registry.models import CHAMPION, SCHEME, Version, download, find_version, resolve_model
from pipelines.registry.smoke_test import HEIGHT, TEXTS, WIDTH, photo
from pipelines.serving.config import ServingConfig

AGAIN_AFTER = 60.0  # seconds until a version that did not load is tried once more
log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Model:
    """The model that gave an answer.

    Attributes:
        address: as the service was started with; of a folder its name alone.
        version: its number in the registry, None for a folder.
        digest: of the files that determine the network's output. label: clean, leaky or unknown.
    """

    address: str
    name: str
    version: str | None
    digest: str
    label: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Loaded:
    """A model that answers."""

    model: Model
    engine: Engine


class Following:
    """The model of one replica.

    Attributes:
        current: what answers now; None while nothing is loaded.
        trouble: why what the address names is not what answers; "" if it is.
    """

    def __init__(self, config: ServingConfig, observe: Callable[[str, float], None] = lambda part, seconds: None):
        self.config, self.observe = config, observe
        self.current: Loaded | None = None
        self.trouble = ""
        self._refused: dict[tuple[str, float], float] = {}  # version and when it was made -> when it did not load
        self._looking = threading.Lock()

    @property
    def is_alias(self) -> bool:
        """Whether the address may mean another version tomorrow."""
        return self.config.model.startswith(SCHEME) and "@" in self.config.model

    def look(self) -> bool:
        """Has the version that the address names take over, if it is another one; whether it did. Raises nothing."""
        with self._looking:
            try:
                return self._look()
            except Exception as error:
                self._say(f"{self.config.model} cannot be looked at: {first_line(error)}")
                return False

    def _look(self) -> bool:
        if not self.config.model.startswith(SCHEME):
            return self.current is None and self._take(None, resolve_model(self.config.model))
        with answers():
            version = find_version(self.config.model)
        key = (version.version, version.created)
        if self.current is not None and self.current.model.version == version.version:
            self._say("")
            return False
        if time.monotonic() - self._refused.get(key, -math.inf) < AGAIN_AFTER:
            return False
        try:
            return self._take(version, self._folder(version))
        except Exception as error:
            self._refused[key] = time.monotonic()
            self._say(f"version {version.version} was not taken: {first_line(error)}")
        return self.current is None and self._fall_back(version)

    def _fall_back(self, version: Version) -> bool:
        """A replica that starts while the alias is at a version that does not load takes the last one that does."""
        if not self.config.model.endswith(f"@{CHAMPION}"):
            return False
        for number in reversed(Champions(version.name).current().history):
            earlier = find_version(f"{version.name}/{number}")
            try:
                trouble, taken = self.trouble, self._take(earlier, self._folder(earlier))
            except Exception as error:
                log.warning("version %s was not taken either: %s", number, first_line(error))
                continue
            self._say(trouble)
            return taken
        return False

    def _folder(self, version: Version) -> Path:
        with answers():
            return download(version)

    def _take(self, version: Version | None, folder: Path) -> bool:
        loaded = self._load(version, folder)
        before, self.current = self.current, loaded
        was = f", it was version {before.model.version}" if before else ""
        log.info("%s version %s serves now%s", loaded.model.name, loaded.model.version, was)
        self._say("")
        return True

    def _load(self, version: Version | None, folder: Path) -> Loaded:
        predictor = Predictor.from_pretrained(folder, self.config.proposer, self.config.device)
        most = max(self.config.limits.pixels, HEIGHT * WIDTH)  # the photo that warms it is never too large
        engine = Engine(predictor, self.config.cache_bytes, most, observe=self.observe)
        (found,) = engine.answer([Question(photo(), TEXTS)])
        if not isinstance(found, Answered) or not all(math.isfinite(a.score + a.no_target) for a in found.answers):
            raise UserError(f"{folder} does not answer a photo with numbers: its weights are damaged")
        engine.photos.clear()
        name, number = (version.name, version.version) if version else (folder.parent.name, None)
        address = name if Path(self.config.model).exists() else self.config.model
        model = Model(address, name, number, lineage.model_digest(folder), _label(folder, version))
        return Loaded(model, engine)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble


def _label(folder: Path, version: Version | None) -> str:
    try:
        leaky = lineage.read(folder).get("leaky")
    except UserError:
        leaky = None
    if version is not None and version.tags.get("leaky") == "true":
        leaky = True
    return "unknown" if leaky is None else "leaky" if leaky else "clean"
