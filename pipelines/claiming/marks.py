"""Small numbered files that at most one process can make: in a folder, on any file system, or in an object store.

What a claim needs of a store is little, and everywhere the same: make a mark only if there is none of this number, say
"I am alive" on one's own mark without ever making it anew, list them, read them, delete them. A local disk and the
usual network file systems have it in `open(O_EXCL)` and `utime`, S3 in its conditional puts.
"""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from mail import addresses
from mail.data import object_store

FOLDER = ".claim"


class Marks(ABC):
    """The marks of one folder."""

    @staticmethod
    def of(folder: str) -> "Marks":
        """Those of a folder, local or `s3://`, that need not be there yet."""
        key = addresses.remote_path(folder)
        return LocalMarks(addresses.absolute(folder)) if key is None else ObjectMarks(key)

    @abstractmethod
    def numbers(self) -> list[int]:
        """Those that there are, in order."""

    @abstractmethod
    def make(self, number: int, content: bytes) -> bool:
        """Makes a mark; False if there is one of this number."""

    @abstractmethod
    def read(self, number: int) -> tuple[bytes, str] | None:
        """What is in it, and a word that is another one after each `beat`; None if it is not there."""

    @abstractmethod
    def beat(self, number: int, content: bytes) -> bool:
        """Renews a mark that this object made; False, and nothing is done, if it is gone."""

    @abstractmethod
    def delete(self, number: int) -> None:
        """Deletes a mark, and the folder of the marks with the last of them; one that is gone is as well."""


class LocalMarks(Marks):
    """Files in `FOLDER/.claim`. Their times are the file server's own."""

    def __init__(self, folder: str):
        self._folder, self._above = os.path.join(folder, FOLDER), folder
        self._made: list[str] = []  # folders that were not there before, the innermost first

    def numbers(self) -> list[int]:
        try:
            return sorted(int(name) for name in os.listdir(self._folder) if name.isdigit())
        except FileNotFoundError:
            return []

    def make(self, number: int, content: bytes) -> bool:
        while True:
            above = self._above
            while not os.path.lexists(above):
                self._made.append(above)
                above = os.path.dirname(above)
            os.makedirs(self._folder, exist_ok=True)
            try:
                mark = os.open(self._path(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            except FileNotFoundError:
                continue  # another owner left, and took the folder along
            with open(mark, "wb") as file:
                file.write(content)
            return True

    def read(self, number: int) -> tuple[bytes, str] | None:
        try:
            with open(self._path(number), "rb") as file:  # opening it is what has a network folder ask its server
                return file.read(), str(os.fstat(file.fileno()).st_mtime_ns)
        except FileNotFoundError:
            return None

    def beat(self, number: int, content: bytes) -> bool:
        try:
            os.utime(self._path(number))
        except FileNotFoundError:
            return False
        return True

    def delete(self, number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(number))
        with contextlib.suppress(OSError):  # another mark is in it
            os.rmdir(self._folder)
            for made in self._made:
                os.rmdir(made)  # nothing came of it

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:06d}")


class ObjectMarks(Marks):
    """Objects below `PREFIX/.claim/`."""

    def __init__(self, place: str):
        import boto3
        from botocore.config import Config

        self._bucket, _, prefix = place.partition("/")
        self._prefix = "/".join(filter(None, (prefix, FOLDER))) + "/"
        # as Arrow does: a server with an address of its own keeps the bucket in the path
        style = {"addressing_style": "path"} if object_store.endpoint() else {}
        retries = {"mode": "standard", "total_max_attempts": 5}
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=object_store.endpoint(),
            region_name=object_store.region(),
            config=Config(s3=style, retries=retries, connect_timeout=5, read_timeout=10),
        )
        self._seen: dict[int, str] = {}  # etags of one's own marks
        self._beats = 0

    def numbers(self) -> list[int]:
        with self._plain_errors(self._prefix):
            found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix).get("Contents", [])
        names = [item["Key"].removeprefix(self._prefix) for item in found]
        return sorted(int(name) for name in names if name.isdigit())

    def make(self, number: int, content: bytes) -> bool:
        return self._put(number, content, IfNoneMatch="*")

    def read(self, number: int) -> tuple[bytes, str] | None:
        with self._plain_errors(self._key(number)) as answer:
            found = self._client.get_object(Bucket=self._bucket, Key=self._key(number))
            answer.append((found["Body"].read(), found["ETag"]))
        return answer[0] if answer else None

    def beat(self, number: int, content: bytes) -> bool:
        self._beats += 1
        return self._put(number, content + b"\n%d" % self._beats, IfMatch=self._seen[number])

    def delete(self, number: int) -> None:
        with self._plain_errors(self._key(number)):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(number))

    def _put(self, number: int, content: bytes, **condition: str) -> bool:
        with self._plain_errors(self._key(number)) as answer:
            put = self._client.put_object(Bucket=self._bucket, Key=self._key(number), Body=content, **condition)
            answer.append(put["ETag"])
        if not answer:  # refused; or an earlier try was done whose answer got lost: the first line is its maker's alone
            there = self.read(number)
            answer = [there[1]] if there is not None and there[0].split(b"\n")[0] == content.split(b"\n")[0] else []
        if answer:
            self._seen[number] = answer[0]
        return bool(answer)

    @contextlib.contextmanager
    def _plain_errors(self, key: str) -> Iterator[list[Any]]:
        """Leaves the list empty where the object is not there, or the condition not met.

        Raises:
            OSError: of the kind that Arrow raises for an object store.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield []
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("404", "NoSuchKey", "412", "PreconditionFailed", "409", "ConditionalRequestConflict"):
                return
            what = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
            raise OSError(f"key '{key}' in bucket '{self._bucket}': AWS Error {what}") from error
        except BotoCoreError as error:
            where = f"key '{key}' in bucket '{self._bucket}'"
            raise OSError(f"{where}: AWS Error NETWORK_CONNECTION: {error}") from error

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number:06d}"
