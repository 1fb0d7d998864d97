"""Starts the service on the Ray that this process is connected to, and tells what becomes of it until it is to end."""

import logging
import os
import socket
import time
from collections.abc import Mapping

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from mail.errors import UserError
from pipelines import ending
from pipelines.cluster_session.session import local_cpus
from pipelines.serving.application import application
from pipelines.serving.config import APPLICATION, ServingConfig, Shape
from pipelines.serving.segmenter import State
from pipelines.terminal import done, say

SECONDS_BETWEEN_LOOKS = 2.0


def serve_until_asked(
    config: ServingConfig, shape: Shape, environment: Mapping[str, str], host: str, port: int
) -> None:
    """Serves until this process is asked to end, then lets requests that run come to their end.

    Raises:
        UserError: the port is taken, or Ray cannot start the replicas.
        EndRequested: the request to end.
    """
    if os.environ.get("MAIL_RAY_LOGS") != "1":
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with ending.postponed():
        _start(config, shape, environment, host, port)
        try:
            _tell(_address(host, port))
        finally:
            serve.delete(APPLICATION)
            if local_cpus() is None and not serve.status().applications:
                serve.shutdown()  # so that its port is free; a Ray of our own ends anyway


def shape_here(replicas: tuple[int, int], ingress: tuple[int, int], gpus: float | None, cpus: float | None) -> Shape:
    """The size of a service on the Ray that this process is connected to; None stands for what fits there.

    Raises:
        UserError: it is none.
    """
    for name, (least, most) in (("replicas", replicas), ("ingress", ingress)):
        if not 1 <= least <= most:
            raise UserError(f"--{name} {least} {most}: give the least and the most, at least 1")
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    if cpus is None:
        cpus = 1.0 if gpus else max(1.0, (local_cpus() or 2) - 1.0)
    return Shape(replicas=replicas, ingress=ingress, gpus=gpus, cpus=cpus)


def _start(config: ServingConfig, shape: Shape, environment: Mapping[str, str], host: str, port: int) -> None:
    if local_cpus() is not None:
        _check_free(host, port)
    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port, "keep_alive_timeout_s": 90})
    say(f"loading {config.model}")
    try:
        serve.run(application(config, shape, environment), name=APPLICATION, route_prefix="/")
    except (RayServeException, RuntimeError) as error:
        raise UserError(f"the service did not start: {' '.join(str(error).split())[:400]}") from error


def _tell(address: str) -> None:
    """Says which version answers, and each change of that, while nobody asks to end."""
    handle = serve.get_deployment_handle("segmenter", APPLICATION)
    before: State | None = None
    while not ending.requested():
        try:
            state = handle.state.remote().result(timeout_s=SECONDS_BETWEEN_LOOKS)
        except (TimeoutError, RayError, RayServeException):
            time.sleep(SECONDS_BETWEEN_LOOKS)  # it is busy, or another replica starts
            continue
        if before is None:
            done(f"{described(state)} at {address} (Ctrl-C ends it)")
        elif state.model != before.model:
            say(f"{described(state)} now")
        if state.trouble and (before is None or state.trouble != before.trouble):
            say(state.trouble)
        before = state
        until = time.monotonic() + SECONDS_BETWEEN_LOOKS
        while time.monotonic() < until and not ending.requested():
            time.sleep(0.1)


def described(state: State) -> str:
    """`serving mail-ris version 4 (clean)`."""
    if state.model is None:
        return "serving no model yet"
    version = f" version {state.model['version']}" if state.model["version"] else ""
    return f"serving {state.model['name']}{version} ({state.model['label']})"


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _check_free(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror or error}): choose another port"
        ) from None
