"""A hub of one repository on this machine, which breaks off once in the middle of a file."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeHub:
    """Serves `folder` as the model `name`, whose branch is `revision`.

    Attributes:
        ranges: Range headers of the requests for file contents.
        requests: paths asked for.
    """

    def __init__(self, folder: Path, name: str, revision: str, break_off: str) -> None:
        self.folder, self.name, self.revision = folder, name, revision
        self.commit = hashlib.sha1(name.encode()).hexdigest()
        self.break_off: str | None = break_off
        self.ranges: list[str] = []
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.split("?")[0]
        self.requests.append(path)
        known = f"({re.escape(self.revision)}|{self.commit})"
        if re.fullmatch(rf"/api/models/{self.name}/revision/{known}", path):
            self._json(request, self._info())
        elif re.fullmatch(rf"/api/models/{self.name}/tree/{known}", path):
            self._json(request, self._tree())
        elif found := re.fullmatch(rf"/{self.name}/resolve/{known}/(.+)", path):
            self._file(request, found[2], body)
        else:
            self._json(request, {"error": "Revision Not Found"}, 404, "RevisionNotFound")

    def _info(self) -> dict[str, Any]:
        siblings = [{"rfilename": p.name} for p in sorted(self.folder.iterdir())]
        return {"id": self.name, "sha": self.commit, "siblings": siblings, "private": False}

    def _tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": self._etag(p)}
            for p in sorted(self.folder.iterdir())
        ]

    @staticmethod
    def _etag(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def _json(
        self, request: BaseHTTPRequestHandler, value: Any, status: int = 200, code: str = ""
    ) -> None:
        data = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        if code:
            request.send_header("X-Error-Code", code)
        request.end_headers()
        request.wfile.write(data)

    def _file(self, request: BaseHTTPRequestHandler, name: str, body: bool) -> None:
        data = (self.folder / name).read_bytes()
        asked = request.headers.get("Range") or ""
        start = int(asked.removeprefix("bytes=").split("-")[0]) if body and asked else 0
        request.send_response(206 if start else 200)
        request.send_header("ETag", f'"{self._etag(self.folder / name)}"')
        request.send_header("X-Repo-Commit", self.commit)
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Content-Length", str(len(data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if not body:
            return
        if asked:
            self.ranges.append(asked)
        if name == self.break_off:
            self.break_off = None
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            request.close_connection = True
            return
        request.wfile.write(data[start:])
