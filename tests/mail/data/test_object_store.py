"""What an object store refuses is said with the address, the reason and the variable that mends it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mail import waiting
from mail.data import files, object_store
from mail.errors import UserError
from tests.s3 import use_endpoint

STATUS = {"denied": 403, "nobucket": 404, "elsewhere": 301}


class Refusing(BaseHTTPRequestHandler):
    """Answers by the bucket's name; a bucket of another name is there, and its objects are denied."""

    def answer(self) -> None:
        bucket, _, key = self.path.strip("/").partition("?")[0].partition("/")
        self.send_response(STATUS.get(bucket, 403 if key else 200))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        use_endpoint(patch, f"http://127.0.0.1:{server.server_port}")
        yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bucket_that_is_not_there_is_named_at_once(endpoint: str) -> None:
    with pytest.raises(UserError, match=rf"^s3://nobucket: {endpoint} has no such bucket: make it"):
        files.resolve("s3://nobucket/store")


def test_a_bucket_of_another_region_says_which_variable(endpoint: str) -> None:
    with pytest.raises(UserError, match="another region: set AWS_REGION"):
        files.resolve("s3://elsewhere/store")


@pytest.mark.parametrize("bucket", ["denied", "open"])
def test_denied_access_names_the_object_and_the_credentials(endpoint: str, bucket: str) -> None:
    with pytest.raises(OSError, match="AWS Error") as raised:
        files.read_bytes(*files.resolve(f"s3://{bucket}/a/b.json"))
    line = str(object_store.refusal(raised.value))
    assert line.startswith(f"s3://{bucket}/a/b.json: {endpoint} denies access: the credentials (AWS_ACCESS_KEY_ID")


def test_a_store_that_is_away_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, "http://me:hunter2@127.0.0.1:9")
    monkeypatch.setattr(waiting, "GIVE_UP_AFTER", 0.0)
    with pytest.raises(UserError, match=r"^s3://bucket: http://\*\*\*@127.0.0.1:9 does not answer \(.*_URL_S3"):
        files.resolve("s3://bucket/store")


def test_another_error_is_not_the_stores() -> None:
    assert object_store.refusal(FileNotFoundError(2, "No such file or directory")) is None
