"""A Hugging Face hub on loopback: repositories in memory, as huggingface_hub talks to them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def sha1(data: bytes) -> str:
    """Return the SHA-1 of bytes, as git and the hub write it."""
    return hashlib.sha1(data).hexdigest()


@dataclass
class Hub:
    """What was pushed, and what was asked for."""

    address: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by commit; the last is `main`."""
    asked: list[str] = field(default_factory=list)
    """Paths of all requests."""

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files to those of the last commit, and return the new one."""
        before = list(self.commits.values())[-1] if self.commits else {}
        sha = sha1(str(len(self.commits)).encode())
        self.commits[sha] = before | files
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Return a commit and its files."""
        sha = list(self.commits)[-1] if revision == "main" else revision
        return sha, self.commits[sha]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(self.path)
        if self.path == "/api/repos/create":
            name = json.loads(body)["name"]
            self._json({"url": f"{self.hub.address}/me/{name}"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            told = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self._json({"files": told})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            sha = self.hub.commit(files)
            self._json({"commitUrl": f"{self.hub.address}/me/ssad/commit/{sha}", "commitOid": sha})
        else:
            self._json({"error": "no such route"}, 404)

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def _get(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(path)
        if found := re.fullmatch(r"/api/models/me/ssad(?:/revision/(?P<revision>\w+))?", path):
            sha, files = self.hub.at(found["revision"] or "main")
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": "me/ssad", "sha": sha, "siblings": siblings, "private": False})
        elif found := re.fullmatch(r"/api/models/me/ssad/tree/(?P<revision>\w+)", path):
            _, files = self.hub.at(found["revision"])
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": sha1(data)}
                    for name, data in files.items()
                ]
            )
        elif found := re.fullmatch(r"/me/ssad/resolve/(?P<revision>\w+)/(?P<name>.+)", path):
            sha, files = self.hub.at(found["revision"])
            data = files[found["name"]]
            self._send(data, {"X-Repo-Commit": sha, "ETag": f'"{sha1(data)}"'}, body=body)
        else:
            self._json({"error": "no such route"}, 404)

    def _json(self, answer: object, status: int = 200) -> None:
        text = json.dumps(answer).encode()
        self._send(text, {"Content-Type": "application/json"}, status=status)

    def _send(
        self, data: bytes, headers: dict[str, str], *, status: int = 200, body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub on loopback."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
