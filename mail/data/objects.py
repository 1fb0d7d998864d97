"""Whole objects under a local folder or an `s3://` prefix, with the one operation that pyarrow lacks: create if absent.

The mask table's commits stand on it: of any number of writers that create the same key at once, exactly one succeeds,
and no reader ever sees half an object. No operation but `list` lists anything.
"""

import abc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from mail.errors import UserError


class Objects(abc.ABC):
    """Objects by key (a relative path with `/`) under one address."""

    @abc.abstractmethod
    def get(self, key: str) -> bytes | None:
        """The object's content, None if there is no such object."""

    @abc.abstractmethod
    def exists(self, key: str) -> bool: ...

    @abc.abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Writes the whole object, replacing what was there."""

    @abc.abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Writes the whole object if there is none; False if there is one with another content."""

    @abc.abstractmethod
    def delete(self, key: str) -> None: ...

    @abc.abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """(key, bytes, time of the last change in seconds since 1970) of everything below a folder."""


def open_objects(uri: str | os.PathLike) -> Objects:
    """Objects below a local path or an `s3://bucket/prefix` address."""
    text = os.fspath(uri)
    return _S3Objects(text) if text.startswith("s3://") else _LocalObjects(text.removeprefix("file://"))


class _LocalObjects(Objects):
    def __init__(self, root: str):
        self.root = Path(root).absolute()

    def get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, key: str) -> bool:
        return (self.root / key).exists()

    def put(self, key: str, data: bytes) -> None:
        self._partial(key, data).replace(self.root / key)

    def create(self, key: str, data: bytes) -> bool:
        partial = self._partial(key, data)
        try:
            # a hard link fails if the name exists and, unlike O_EXCL + write, never shows half a file
            os.link(partial, self.root / key)
        except FileExistsError:
            return self.get(key) == data
        except OSError as error:
            raise UserError(
                f"{self.root} is on a file system without hard links, which commits need: {error}"
            ) from None
        finally:
            partial.unlink()
        self._sync_folder((self.root / key).parent)
        return True

    def delete(self, key: str) -> None:
        (self.root / key).unlink(missing_ok=True)

    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        for path in sorted((self.root / prefix).rglob("*")):
            if path.is_file():
                stat = path.stat()
                yield path.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime

    def _partial(self, key: str, data: bytes) -> Path:
        target = self.root / key
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return partial

    @staticmethod
    def _sync_folder(folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the new name survives a power cut too
        finally:
            os.close(descriptor)


class _S3Objects(Objects):
    """Credentials and the endpoint come from the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_S3`, ...)."""

    def __init__(self, uri: str):
        import boto3  # only where S3 is used: half a second
        from botocore.config import Config

        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        self.prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
        retries = {"max_attempts": 10, "mode": "standard"}  # exponential back-off on 5xx, slow-down, cut connections
        config = Config(retries=retries, connect_timeout=10, read_timeout=60)
        self.client = boto3.client("s3", config=config)

    def get(self, key: str) -> bytes | None:
        try:
            return self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None

    def exists(self, key: str) -> bool:
        try:
            self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except self.client.exceptions.ClientError as error:
            if _code(error) in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
        return True

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        for _ in range(10):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, IfNoneMatch="*")
            except self.client.exceptions.ClientError as error:
                if _code(error) in ("412", "PreconditionFailed"):
                    # a retry after a lost answer meets the object that the first attempt wrote
                    return self.get(key) == data
                if _code(error) in ("409", "ConditionalRequestConflict"):
                    continue  # S3 asks to try again: another conditional put is under way
                raise
            return True
        return self.get(key) == data

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def list(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=f"{self.prefix}{prefix.rstrip('/')}/"
        )
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self.prefix), item["Size"], item["LastModified"].timestamp()


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
