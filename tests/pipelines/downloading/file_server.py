"""A real HTTP server of some files, which knows ranges and versions, and fails in the ways that servers fail."""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class FileServer(ThreadingHTTPServer):
    """Serves `contents` by path.

    Attributes:
        faults: by path, what the next answers are, one each: a status (404), ("cut", bytes), ("stall", bytes), ("slow",
            seconds a piece), "html", "no length".
        ranges: whether it knows them. asked: path and Range header of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents: dict[str, bytes] = {}
        self.faults: dict[str, list] = {}
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        self.ended = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving() -> Iterator[FileServer]:
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path).lstrip("/")
        wanted = self.headers.get("Range")
        self.server.asked.append((path, wanted))
        self.close_connection = True
        faults = self.server.faults.get(path, [])
        fault = faults.pop(0) if faults else None
        if path not in self.server.contents or isinstance(fault, int):
            return self.answer(fault if isinstance(fault, int) else 404, b"no")
        if fault == "html":
            return self.answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html; charset=utf-8"})
        data = self.server.contents[path]
        version = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        headers = {"Content-Type": "application/octet-stream"}
        begun = 0
        if self.server.ranges:
            headers["ETag"] = version
            found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
            if found and self.headers.get("If-Range", version) == version:
                begun = int(found[1])
                if begun >= len(data):
                    return self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                headers["Content-Range"] = f"bytes {begun}-{len(data) - 1}/{len(data)}"
        return self.answer(206 if begun else 200, data[begun:], headers, fault)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: object = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        kind, value = fault if isinstance(fault, tuple) else ("", 0)
        with contextlib.suppress(ConnectionError):
            if kind in ("cut", "stall"):
                self.wfile.write(body[:value])
                self.wfile.flush()
                if kind == "stall":
                    self.server.ended.wait(30)
                return
            for start in range(0, len(body), 2**16):
                self.wfile.write(body[start : start + 2**16])
                if kind == "slow":
                    time.sleep(value)

    def log_message(self, *_: object) -> None:
        pass
