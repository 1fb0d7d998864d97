"""An S3 server over HTTP for tests, and a proxy in front of it that fails the way object stores do."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

BUCKET = "bucket"
SLOW_DOWN = (  # as long as S3's own, which is longer than many a piece of a file that is asked for
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.'
    b"</Message><RequestId>" + b"0" * 16 + b"</RequestId><HostId>" + b"0" * 76 + b"</HostId></Error>"
)


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Endpoint of a running server with an empty bucket; the usual variables point there while it runs."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        use_endpoint(patch, f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        try:
            yield f"http://{host}:{port}"
        finally:
            server.stop()


def use_endpoint(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Sets the variables by which boto3 and pyarrow find an S3 server."""
    patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@contextlib.contextmanager
def unreliable(
    endpoint: str, faults: list[str], reads: list[str] | None = None, asked: list[str] | None = None
) -> Iterator[str]:
    """Endpoint of a proxy that spends one of `faults` on each write, and of `reads` on each read, while there are any.

    `500`, `503`: that answer, nothing done. `cut`: the connection ends in the middle of the upload. `lost`: the server
    does what it was asked to, but the answer never arrives. Empty: all goes well. `asked` gets a line per request.
    """
    spent = {"PUT": faults, "GET": [] if reads is None else reads}
    host = endpoint.removeprefix("http://")
    lock = threading.Lock()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            with lock:
                waiting = spent.get(self.command)
                fault = waiting.pop(0) if waiting else ""
                if asked is not None:
                    asked.append(f"{self.command} {self.path}")
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            if fault == "cut":
                self.rfile.read(length // 2)
                self.hang_up()
                return
            chunked = "chunked" in self.headers.get("Transfer-Encoding", "")  # as Arrow uploads
            body = list(self.chunks()) if chunked else self.rfile.read(length)
            if fault in ("500", "503"):
                self.answer(int(fault), {}, SLOW_DOWN if fault == "503" else b"")
                return
            upstream = http.client.HTTPConnection(host, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            upstream.request(self.command, self.path, body, headers, encode_chunked=chunked)
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if fault == "lost":
                self.hang_up()
                return
            self.answer(answer.status, dict(answer.getheaders()), content)

        def chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            is_head = self.command == "HEAD"
            self.send_header("Content-Length", headers.get("Content-Length", "0") if is_head else str(len(content)))
            self.end_headers()
            if not is_head:
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward

        def log_message(self, format: str, *args: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
