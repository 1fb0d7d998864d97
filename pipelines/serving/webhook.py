"""MLflow's webhooks: signed by a secret that both sides know, so that only the registry can have a look taken.

The signature is HMAC-SHA256 of `ID.TIME.BODY`, as MLflow's documentation of webhooks has it.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping

from pipelines.serving.refused import Refused

OLDEST = 300.0  # seconds: what was overheard cannot be sent again later


def check_signature(secret: str | None, headers: Mapping[str, str], body: bytes) -> None:
    """Raises Refused where no secret is configured, or the body is not signed by it, just now."""
    if secret is None:
        raise Refused(404, "not_found", "no webhook is configured: set MAIL_SERVE_WEBHOOK_SECRET")
    given, sent = headers.get("X-MLflow-Signature", ""), headers.get("X-MLflow-Timestamp", "")
    signed = f"{headers.get('X-MLflow-Delivery-Id', '')}.{sent}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    fresh = sent.isascii() and sent.isdigit() and abs(time.time() - int(sent)) < OLDEST
    if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()) or not fresh:
        raise Refused(401, "bad_signature", "the webhook is not signed by the configured secret")
