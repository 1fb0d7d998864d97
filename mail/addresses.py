"""What an address is: a local path, or `s3://BUCKET/KEY`. Nobody else takes one apart or puts one together.

    data/My photos (100%)        a local path, with any characters, byte for byte as given
    ~/data                       the same, also where the shell left the ~ alone (`--out=~/data`)
    file:///data/My%20photos     the same, percent-encoded as RFC 8089 has it
    s3://BUCKET/KEY              also S3://; a key is taken as it is written

Everything else with a scheme is refused by its name. `absolute` gives the one spelling of an address that every process
understands alike: what it returned goes through it unchanged. MLflow's own addresses, of its database and of the files
that it keeps, are at the end. `without_secrets` is for whatever a person, a tag or a log gets to see.
"""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes, urlsplit

from mail.errors import UserError

REGISTRY = "models:/"  # of MLflow: a model's name follows, which is no place
UNDERSTOOD = "a local path, file:///PATH or s3://BUCKET/KEY"
_REMOTE = "s3://"
_SQLITE = "sqlite:///"
_WEB = ("http://", "https://")
HIDDEN = "***"
_SECRET_NAMES = (
    r"[\w.%-]*(?:signature|credential|token|secret|password|passwd|passphrase|api[_-]?key|access[_-]?key)[\w.%-]*"
    "|sig|pwd|pass|key|auth|jwt|odbc_connect"
)
_SECRETS = (
    # user and password, up to the last @ before the path; or a password with a slash that should have been encoded
    re.compile(r"(?<=://)(?:[^\s/?#\"<>]*|[^\s/@:\[\"]*:(?!\d+[/?#])[^\s@\"<>]*)(?=@)"),
    re.compile(r"(?<![^\s'\"=(])[^\s:/@'\"=(]+:(?!//)[^\s/@]+(?=@[\w.\[\]-]+:\d)"),  # of an address without a scheme
    re.compile(rf"(?<=[?&;#])((?:{_SECRET_NAMES})=)[^&\s#'\"]+", re.IGNORECASE),
)
# one slash: RFC 8089 allows it for files, and `pathlib` leaves one of the two of an s3:// address
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://|(s3|file):(?=/)", re.IGNORECASE)

Place = str | os.PathLike[str]


def absolute(address: Place) -> str:
    """The address as every process understands it: an absolute local path, or `s3://BUCKET/KEY`.

    Raises:
        UserError: it is empty, of another kind, or of another machine.
    """
    text = os.fspath(address)
    found = _SCHEME.match(text)
    scheme, rest = ((found[1] or found[2]).lower(), text[found.end() :]) if found else ("", text)
    if not text.strip():
        raise UserError(f"an empty address: give {UNDERSTOOD}")
    if scheme == "":
        return _local(text)
    if scheme == "file":
        return _of_file_uri(text, rest)
    if scheme != "s3":
        raise UserError(f"{text}: {scheme}:// is not understood: give {UNDERSTOOD}")
    if (shown := without_secrets(text)) != text:
        raise UserError(
            f"{shown} holds a secret, and addresses are recorded: give it by AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or in a profile"
        )
    if rest.startswith("/") or not rest:
        raise UserError(f"{text} names no bucket: write s3://BUCKET/KEY, with two slashes")
    return _REMOTE + rest.rstrip("/")


def without_secrets(text: str) -> str:
    """Any text as it may be shown and recorded: users, passwords and tokens in the addresses in it are `***`.

    Users and passwords stand before the host's @; tokens are what a query calls so (`sig=`, `X-Amz-Signature=`, ...).
    """
    for secret in _SECRETS:
        text = secret.sub(lambda found: f"{found[1] if found.re.groups else ''}{HIDDEN}", text)
    return text


def join(address: Place, *names: str) -> str:
    """The address of something inside of a folder; the names are taken as they are, empty ones are left out."""
    return "/".join([absolute(address).rstrip("/"), *filter(None, names)])


def remote_path(address: Place) -> str | None:
    """`BUCKET/KEY` of an address in an object store, None for a local one."""
    text = absolute(address)
    return text.removeprefix(_REMOTE) if text.startswith(_REMOTE) else None


def of_object(bucket: str, key: str = "") -> str:
    """The address of an object, or of a whole bucket."""
    return _REMOTE + "/".join(filter(None, (bucket, key)))


def local_path(address: Place) -> Path:
    """The absolute path of a local address.

    Raises:
        UserError: it is not on this machine.
    """
    text = absolute(address)
    if text.startswith(_REMOTE):
        raise UserError(f"{text} is not on this machine: give a local path")
    return Path(text)


def absolute_or_name(text: str) -> str:
    """An address made absolute, where the text is one; else the text itself: the name of a model on a hub or in MLflow.

    It is an address if it is written as one (a scheme, `/`, `~`, `./` or `../` before it), or if there is such a file.
    """
    if text.startswith(REGISTRY):
        return text
    written = _SCHEME.match(text) or text.startswith(("/", "~", "./", "../")) or text in (".", "..")
    return absolute(text) if written or os.path.exists(text) else text


def encoded_uri(address: Place) -> str:
    """The `file://` or `s3://` URI of an address, percent-encoded, for libraries that decode what they are given."""
    key = remote_path(address)
    return local_path(address).as_uri() if key is None else _REMOTE + quote(key)


def sqlite_uri(path: Place) -> str:
    """The URI by which SQLAlchemy, and so MLflow, opens the SQLite database in a local file."""
    # SQLAlchemy decodes what it takes for the path, and ends that at the first question mark
    return _SQLITE + str(local_path(path)).replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """The database file of an URI, absolute; None for another database, or one in memory."""
    name, _, options = uri.removeprefix(_SQLITE).partition("?")
    if not uri.startswith(_SQLITE) or options or name in ("", ":memory:"):
        return None
    return local_path(unquote(name))


def without_user(uri: str) -> str:
    """An URI without the user and the password in it."""
    return _SECRETS[0].sub("", uri).replace("://@", "://", 1)


def is_remote_database(uri: str) -> bool:
    """Whether an URI is of a database that SQLAlchemy reaches over a network."""
    return "://" in uri and re.split(r"[+:]", uri, maxsplit=1)[0] in ("postgresql", "postgres", "mysql", "mssql")


def is_web(uri: str) -> bool:
    """Whether an URI is of a server that speaks HTTP."""
    return uri.lower().startswith(_WEB)


def path_and_query(uri: str) -> tuple[str, dict[str, str]]:
    """The decoded path of an address that another program wrote, whatever its scheme, and what its query says.

    Raises:
        ValueError: it is no address.
    """
    parts = urlsplit(uri)
    return unquote(parts.path), dict(parse_qsl(parts.query))


def kept_path(uri: str) -> Path | None:
    """Where the files of an URI that MLflow gave are on this machine; None where they are somewhere else."""
    return local_path(uri) if uri.startswith(("/", "file:/")) else None


def _local(text: str) -> str:
    path = os.path.expanduser(text)
    if path.partition("/")[0] == "~":
        raise UserError(f"{text}: nothing tells the home folder that ~ stands for: set HOME, or write the whole path")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path!r} is no UTF-8: rename it, for data sets are read by other programs as well") from None
    return str(Path(path).absolute())


def _of_file_uri(uri: str, rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise UserError(f"{uri} names the machine {host!r}: write file:///PATH, with three slashes")
    return _local("/" + os.fsdecode(unquote_to_bytes(path)))
