"""The service as a Ray Serve application: what replicas there are, and what a `RayService` names in its config.

serveConfigV2: |
  applications:
    - name: mail-ris
      import_path: pipelines.serving.application:build
      args: {model: models:/mail-ris@champion, gpus: 1, replicas: [1, 4], ingress: [1, 4]}
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from mail.errors import UserError
from pipelines.serving.config import (
    LABEL_STUDIO_KEY,
    TOKEN,
    WEBHOOK_SECRET,
    ServingConfig,
    Shape,
    check_token,
    digest_of,
)
from pipelines.serving.ingress import Ingress
from pipelines.serving.segmenter import Segmenter

ONGOING = 32  # requests of a replica of the network, in a batch or waiting for the next one
REQUESTS = 256  # of a replica that answers HTTP


def application(config: ServingConfig, shape: Shape, environment: Mapping[str, str]) -> Application:
    """The two deployments. They scale apart: HTTP by CPUs, the network by what it has to do.

    Args:
        environment: variables of the replicas, MLflow's among them.
    """
    runtime = {"env_vars": dict(environment)} if environment else {}
    busy = {"status_code": 429, "retry_after_s": 1}
    of_network: Any = serve.deployment(Segmenter)  # Ray types the decorator's other use
    segmenter = of_network.options(
        name="segmenter",
        ray_actor_options={"num_cpus": shape.cpus, "num_gpus": shape.gpus, "runtime_env": runtime},
        max_ongoing_requests=ONGOING,
        max_queued_requests=config.limits.waiting,
        **_replicas(shape.replicas, ONGOING // 4),
    )
    of_http: Any = serve.deployment(Ingress)
    ingress = of_http.options(
        name="ingress",
        ray_actor_options={"num_cpus": 0.1, "runtime_env": runtime},
        max_ongoing_requests=REQUESTS,
        max_queued_requests=config.limits.waiting,
        backpressure_config=busy,
        **_replicas(shape.ingress, REQUESTS // 8),
    )
    return ingress.bind(config, segmenter.bind(config))


def build(args: dict[str, Any]) -> Application:
    """The application that a Serve config describes: fields of `ServingConfig` and `Shape`.

    Secrets are in variables, as for `mail-ris serve`. The bearer token must be (`MAIL_SERVE_TOKEN`): whoever starts the
    service like this is not on a loopback address.

    Raises:
        UserError: there is no such field, or no token.
    """
    of_shape = {field.name for field in dataclasses.fields(Shape)}
    secret = {"webhook_secret": os.environ.get(WEBHOOK_SECRET), "label_studio_key": os.environ.get(LABEL_STUDIO_KEY)}
    of_config = {field.name for field in dataclasses.fields(ServingConfig)} - {"token", "limits", *secret}
    if unknown := sorted(set(args) - of_shape - of_config):
        raise UserError(
            f"args of the service: there is no {unknown[0]!r}, only {', '.join(sorted(of_shape | of_config))}"
        )
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
    token = digest_of(check_token(os.environ.get(TOKEN, ""), TOKEN))
    given |= {**secret, "token": token, "loopback": False}
    shape: dict[str, Any] = {key: given.pop(key) for key in of_shape & given.keys()}
    return application(ServingConfig(**given), Shape(**shape), {})


def _replicas(bounds: tuple[int, int], target: int) -> dict[str, Any]:
    least, most = bounds
    if least == most:
        return {"num_replicas": least}
    scaling = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target}
    return {"autoscaling_config": scaling}
