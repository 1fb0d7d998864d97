"""A stand-in for a model hub: what `push_to_hub` and `from_pretrained` ask of one, over HTTP, in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes]  # REPOSITORY/PATH -> content
    stored: dict[str, bytes]  # large files, by SHA-256
    refused: list[str]  # what came without the token
    protocol_version = "HTTP/1.1"

    def answer(self, content: bytes | dict[str, Any], status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        at = f"http://{self.headers['Host']}"
        if self.headers["Authorization"] != "Bearer secret":
            self.refused.append(self.path)
            return self.answer({"error": "no token"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            return self.answer({"url": f"{at}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            sent = json.loads(body)["files"]
            kind = {True: "lfs", False: "regular"}
            found = [{"path": f["path"], "uploadMode": kind[f["path"].endswith("s")]} for f in sent]
            return self.answer({"files": [{**f, "shouldIgnore": False, "oid": None} for f in found]})
        if self.path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            upload = [{**o, "actions": {"upload": {"href": f"{at}/large/{o['oid']}"}}} for o in wanted]
            return self.answer({"transfer": "basic", "objects": upload})
        repository = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[f"{repository}/{value['path']}"] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[f"{repository}/{value['path']}"] = self.stored[value["oid"]]
        return self.answer({"commitUrl": f"{at}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.stored[hashlib.sha256(data).hexdigest()] = data
        self.answer(b"")

    def do_GET(self) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        data = self.files.get(f"{repository}/{rest.partition('/')[2]}")
        if data is None:
            return self.answer({"error": "not there"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        return self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """The address of a hub, and what is in it."""
    kind = type("OneHub", (Hub,), {"files": {}, "stored": {}, "refused": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", kind
        finally:
            server.shutdown()
            thread.join()
