"""The S3 that `AWS_ENDPOINT_URL_S3` names, or Amazon's: opened once it answers; its refusals in a person's words."""

import functools
import os
import re
from typing import Any

from pyarrow import fs

from mail import addresses
from mail.addresses import without_secrets
from mail.errors import UserError
from mail.waiting import until_answered

PASSING = re.compile(
    r"AWS Error (INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT|NETWORK_CONNECTION|UNKNOWN)"
)
_AWAY = re.compile(r"AWS Error NETWORK_CONNECTION|curlCode|error sending request")
_OBJECT = re.compile(r"key '([^']*)' in bucket '([^']*)'|bucket '([^']*)'")
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_REFUSALS = (
    (_AWAY, "does not answer ({detail}): is the address right (AWS_ENDPOINT_URL_S3), and a proxy not in the way?"),
    (re.compile(r"NO_SUCH_BUCKET|NoSuchBucket"), "has no such bucket: make it, or mend the address"),
    (
        re.compile(r"HTTP status 30\d|PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint"),
        "keeps this bucket in another region: set AWS_REGION to it",
    ),
    (
        re.compile(
            r"INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
        ),
        f"knows other credentials: look at {CREDENTIALS}",
    ),
    (
        re.compile(r"ACCESS_DENIED|AccessDenied|HTTP status 40[13]|lacked the necessary privileges"),
        f"denies access: the credentials ({CREDENTIALS}) lack the right, or there are none",
    ),
)


def open_bucket(bucket: str) -> fs.S3FileSystem:
    """The file system of the store, which has the bucket.

    Credentials and the endpoint come from the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_S3`, ...).

    Raises:
        UserError: nobody answers within a minute, or there is no such bucket.
    """
    _check(bucket, endpoint(), region())
    # exponential back-off on 5xx, slow-down and cut connections: half a minute at most
    return _connect(endpoint(), region(), 7)


def endpoint() -> str | None:
    """The server's address, None for Amazon's own."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def region() -> str | None:
    """The region that the usual variables name."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def refusal(error: BaseException, address: str | None = None) -> str | None:
    """Where, what and how to mend it, of what Arrow or deltalake raised for a store; None for errors of another kind.

    Args:
        address: where it happened; default: what Arrow says.
    """
    text = str(error)
    if not re.search("AWS Error|Error performing", text):
        return None
    found = _OBJECT.search(text)
    bucket, key = (found[2] or found[3], found[1] or "") if found else ("", "")
    where = address or addresses.of_object(bucket, key)
    server = without_secrets(endpoint() or "Amazon S3")
    detail = text.rpartition("curlCode: ")[2].partition(", ")[2].partition(";")[0] or text.rpartition("AWS Error ")[2]
    for kind, words in _REFUSALS:
        if kind.search(text):
            return f"{where}: {server} {words.format(detail=detail.strip())}"
    return f"{where}: {server} cannot do this now: {without_secrets(detail)[:200]}"


def _connect(endpoint: str | None, region: str | None, attempts: int, **options: Any) -> fs.S3FileSystem:
    if endpoint:
        options["endpoint_override"] = endpoint
    if region:
        options["region"] = region
    return fs.S3FileSystem(retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts), **options)


@functools.cache  # once for a process: a store that answered is not asked again
def _check(bucket: str, endpoint: str | None, region: str | None) -> None:
    store = _connect(endpoint, region, 1, connect_timeout=5, request_timeout=10)
    try:
        found = until_answered(
            lambda: store.get_file_info(bucket).type,
            lambda error: bool(_AWAY.search(str(error))),
            f"the object store at {without_secrets(endpoint or 'Amazon')}",
        )
    except OSError as error:
        if _AWAY.search(str(error)) or "HTTP status 30" in str(error):
            raise UserError(refusal(error) or str(error)) from None
        return  # who may not look at the bucket may still read in it
    if found == fs.FileType.NotFound:
        raise UserError(f"{addresses.of_object(bucket)}: {without_secrets(endpoint or 'Amazon S3')} {_REFUSALS[1][1]}")
