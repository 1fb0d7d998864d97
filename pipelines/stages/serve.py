"""`mail-ris serve`: a model behind HTTP, with a page; it follows the champion and keeps corrections.

mail-ris serve                                        the champion, for this machine alone
mail-ris serve --host 0.0.0.0 --token-file token      for others, who show the token
mail-ris serve --corrections corrections              what people correct, as `prepare custom` reads it
"""

import os
from dataclasses import dataclass
from typing import Any

from mail import addresses
from mail.errors import UserError
from pipelines.ending import EndRequested
from pipelines.options import Address, LocalPath, ModelAddress, Target
from pipelines.registry.client import environment
from pipelines.registry.models import CHAMPION, MODEL_NAME, SCHEME, find_version, resolve_model
from pipelines.serving.config import (
    LABEL_STUDIO_KEY,
    LOOPBACK,
    TOKEN,
    WEBHOOK_SECRET,
    Limits,
    ServingConfig,
    check_token,
    digest_of,
)
from pipelines.stage import Stage


@dataclass(kw_only=True)
class Serve(Stage):
    """Answers photos and sentences over HTTP, until it is asked to end. A promotion is followed without a restart."""

    model: ModelAddress = f"{SCHEME}{MODEL_NAME}@{CHAMPION}"
    """MODEL: a folder, a run, or a registry address. An alias such as @champion is followed."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs a token."""

    port: int = 8000
    """Port to listen on."""

    token_file: LocalPath | None = None
    """File that holds the bearer token which clients must show (or the variable MAIL_SERVE_TOKEN)."""

    corrections: Target | None = None
    """Place where corrections are kept (local path or s3://); `prepare custom --expressions` reads it."""

    proposer: Address | None = None
    """PROPOSER folder that finds the instance masks (default: the one bundled with the model)."""

    examples: Address | None = None
    """Data store of which the page offers a few photos to try."""

    device: str | None = None
    """cpu or cuda (default: the GPU if the replicas have one)."""

    replicas: tuple[int, int] = (1, 1)
    """Least and most replicas of the network; between them they follow the load."""

    ingress: tuple[int, int] = (1, 1)
    """Least and most replicas of what decodes requests and encodes answers, on CPUs."""

    gpus: float | None = None
    """GPUs of a replica of the network (default: 1 where Ray has any, else 0)."""

    cpus: float | None = None
    """CPUs of a replica of the network (default: 1 beside a GPU, else all but one of this machine's)."""

    look_every: float = ServingConfig.look_every
    """Seconds between looks at the alias."""

    cache_mib: int = ServingConfig.cache_bytes // 2**20
    """Memory, in MiB, for photos that were asked about last: of each replica of the network, and of each ingress."""

    max_bytes: int = Limits.bytes
    """Bytes of a photo's file."""

    max_pixels: int = Limits.pixels
    """Pixels of a photo."""

    max_sentences: int = Limits.sentences
    """Sentences of a request."""

    max_characters: int = Limits.characters
    """Characters of a sentence."""

    allow_hosts: tuple[str, ...] = ()
    """Hosts that photos may be got from (`{"image": {"url": ...}}`); none by default."""

    allow_origins: tuple[str, ...] = ()
    """Origins whose pages may ask (https://HOST); only the service's own page by default."""

    label_studio: str | None = None
    """Address of the Label Studio whose tasks' photos are got from it (with the key in LABEL_STUDIO_API_KEY)."""

    def plan(self) -> dict[str, Any]:
        return {
            "address": f"http://{self.host}:{self.port}",
            "version": self._version(),
            "token": self._token() is not None,
            "corrections": self.corrections,
        }

    def run(self) -> None:
        self._version()
        token = self._token()
        if self.label_studio is not None and not addresses.is_web(self.label_studio):
            raise UserError(f"--label-studio {self.label_studio} is no address: write http://HOST:8080")
        from pipelines.cluster_session.session import connect

        with connect():
            from pipelines.serving.corrections import Corrections
            from pipelines.serving.running import serve_until_asked, shape_here

            if self.corrections is not None:
                Corrections(self.corrections).check()
            limits = Limits(
                bytes=self.max_bytes,
                pixels=self.max_pixels,
                sentences=self.max_sentences,
                characters=self.max_characters,
            )
            shape = shape_here(self.replicas, self.ingress, self.gpus, self.cpus)
            config = ServingConfig(
                model=self.model,
                proposer=self.proposer,
                device=self.device or (None if shape.gpus else "cpu"),
                look_every=self.look_every,
                cache_bytes=self.cache_mib * 2**20,
                limits=limits,
                token=None if token is None else digest_of(token),
                webhook_secret=os.environ.get(WEBHOOK_SECRET),
                corrections=self.corrections,
                allow_hosts=tuple(host.lower() for host in self.allow_hosts),
                allow_origins=self.allow_origins,
                examples=self.examples,
                label_studio=self.label_studio,
                label_studio_key=os.environ.get(LABEL_STUDIO_KEY),
                loopback=self.host in LOOPBACK,
            )
            serve_until_asked(config, shape, environment(), self.host, self.port)

    def tell_kept(self, end: EndRequested) -> None:
        end.kept = "the service has ended"

    def _version(self) -> str:
        """What the address names now. Raises UserError where there is nothing."""
        if self.model.startswith(SCHEME):
            from pipelines.registry.client import answers

            with answers():
                return find_version(self.model).version
        return str(resolve_model(self.model))

    def _token(self) -> str | None:
        """The token. Raises UserError where one is needed and none is given."""
        if self.token_file is not None:
            try:
                return check_token(self.token_file.read_text(), f"--token-file {self.token_file}")
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is no text"
                raise UserError(f"--token-file {self.token_file} cannot be read: {why}") from None
        if given := os.environ.get(TOKEN):
            return check_token(given, TOKEN)
        if self.host not in LOOPBACK:
            raise UserError(
                f"--host {self.host}: others can reach this service, so it needs a token: give --token-file FILE, or "
                f"set {TOKEN}"
            )
        return None
