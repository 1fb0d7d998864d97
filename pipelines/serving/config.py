"""What a service is started with, as it is handed to its deployments."""

import hashlib
from dataclasses import dataclass, field

from mail.errors import UserError

APPLICATION = "mail-ris"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN, WEBHOOK_SECRET = "MAIL_SERVE_TOKEN", "MAIL_SERVE_WEBHOOK_SECRET"  # variables that hold them
LABEL_STUDIO_KEY = "LABEL_STUDIO_API_KEY"  # as Label Studio's own tools have it
SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may cost.

    Attributes:
        bytes: of a photo's file. pixels: of a photo. sentences: of a request. characters: of a sentence.
        masks: pixels x sentences of a request, and of a batch, whose masks are in memory together.
        seconds: that a request may take, waiting included.
        waiting: requests that wait for a replica before others are turned away.
    """

    bytes: int = 20 * 2**20
    pixels: int = 40_000_000
    sentences: int = 32
    characters: int = 500
    masks: int = 640_000_000
    seconds: float = 60.0
    waiting: int = 64

    @property
    def body(self) -> int:
        """Bytes of a whole request: the photo in base64, and the sentences."""
        return self.bytes * 4 // 3 + 8 * self.sentences * self.characters + 2**16


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """A whole service.

    Attributes:
        model: MODEL, a run, or a registry address; an alias is followed.
        look_every: seconds between looks at the alias.
        token: sha256 of the bearer token, None for none: the token itself goes nowhere.
        webhook_secret: of MLflow's webhook, None if none is configured.
        corrections: where they are kept, None for nowhere.
        allow_hosts: that photos may be got from. allow_origins: whose pages may ask.
        examples: data store whose photos a visitor may try.
        label_studio: address of the Label Studio that keeps the photos of tasks. label_studio_key: of a user there.
        loopback: whether only this machine can reach it.
    """

    model: str
    proposer: str | None = None
    device: str | None = None
    look_every: float = 5.0
    cache_bytes: int = 2**29
    limits: Limits = field(default_factory=Limits)
    token: str | None = None
    webhook_secret: str | None = field(default=None, repr=False)
    corrections: str | None = None
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    examples: str | None = None
    label_studio: str | None = None
    label_studio_key: str | None = field(default=None, repr=False)
    loopback: bool = True


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the service is.

    Attributes:
        replicas: least and most replicas of the network. gpus, cpus: of each of them.
        ingress: least and most replicas of what decodes requests and encodes answers.
    """

    replicas: tuple[int, int] = (1, 1)
    ingress: tuple[int, int] = (1, 1)
    gpus: float = 0.0
    cpus: float = 1.0


def digest_of(token: str) -> str:
    """What is kept of a token, so that no log or store of Ray has it."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_token(token: str, where: str) -> str:
    """The token, if nobody can guess it. Raises UserError otherwise."""
    token = token.strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{where} is no token: give at least {SHORTEST_TOKEN} printable ASCII characters without spaces, for "
            "example of `openssl rand -hex 32`"
        )
    return token
