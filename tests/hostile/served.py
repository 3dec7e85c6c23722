"""A service in a process of its own, what it answers to raw bytes, and what is wrong with that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from messages import LIMIT, TOKEN, Message

PATIENCE = 45.0
"""How long an answer that is owed may take, in seconds: longer than the service's own deadline."""
SETTINGS = {
    "--model": "crnn-synthetic",
    "--purifier": "ssad-plus-synthetic",
    "--port": "0",
    "--max-bytes": str(LIMIT),
    "--max-seconds": "10",
    "--body-timeout": "3",
}
SECRETS = (TOKEN, "Traceback", "site-packages", "servax/", "/usr", "/work", "/root", ".py", "0x7f")
"""What no answer may hold. A path of the request is not repeated either."""


@dataclass(frozen=True)
class Answer:
    """What came back over one connection."""

    status: int | None
    """None when it ended without an answer."""
    code: str
    """That of the error, ``ok``, ``plain`` (no JSON), ``none`` or ``waiting``."""
    body: bytes
    seconds: float


class Served:
    """``servax serve`` with the packaged synthetic networks, on loopback, with a token.

    Args:
        workers: How many processes compute.
    """

    def __init__(self, workers: int = 2) -> None:
        self._settings = SETTINGS | {"--workers": str(workers)}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="hostile-service-")
        root = Path(self._folder.name)
        for name in ("tmp", "home", "here"):
            (root / name).mkdir()
        (root / "tokens").write_text(TOKEN + "\n")
        (root / "tokens").chmod(0o600)
        self.log = root / "log"
        command = [
            sys.executable,
            "-m",
            "servax",
            "serve",
            "--page",
            "--token-file",
            str(root / "tokens"),
        ]
        places = {"TMPDIR": root / "tmp", "HOME": root / "home", "SERVAX_CACHE": root / "home"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command + [part for pair in self._settings.items() for part in pair],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=root / "here",
                env=os.environ
                | {name: str(path) for name, path in places.items()}
                | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        assert self.process.stdout is not None
        url = self.process.stdout.readline().decode()
        if not url.startswith("http"):
            raise RuntimeError(f"the service did not start: {self.log.read_text()[-2_000:]}")
        self.port = int(url.rsplit(":", 1)[1])
        self._wait_until_ready()
        self.ready_rss = self.rss()
        self.ready_pids = self.workers()
        self._ready_files = self._files()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._folder.cleanup()

    def end(self) -> int:
        """Ask the service to end, and return how it did."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait()

    def send(self, message: Message) -> Answer:
        """Return what comes back for a message; half a request is given up soon."""
        began = time.perf_counter()
        patience = PATIENCE if message.answered else 0.05
        heard = b""
        late = False
        with self.connection(patience) as wire:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                wire.sendall(message.sent)
            try:
                while part := wire.recv(1 << 16):
                    if not heard and part.startswith(b"HTTP/1.1 101 "):
                        wire.sendall(message.upgraded)
                    heard += part
            except TimeoutError:
                late = True
            except (BrokenPipeError, ConnectionResetError):
                pass
        seconds = time.perf_counter() - began
        return Answer(*read_answer(heard, late), seconds)

    def connection(self, patience: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=patience)

    def get(self, path: str) -> Answer:
        """Return what a right request for a path gets."""
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        return self.send(Message("get", f"{head}Authorization: Bearer {TOKEN}\r\n\r\n".encode()))

    def workers(self) -> list[int]:
        """Return the ids of the service's children."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return sorted(int(pid) for pid in path.read_text().split())

    def rss(self) -> float:
        """Return the most memory that the service and its workers have held, in MiB."""
        total = 0
        for pid in (self.process.pid, *self.workers()):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM"):
                        total += int(line.split()[1])
        return total / 1024

    def events(self) -> dict[str, int]:
        """Return how often each event stands in the log."""
        found: dict[str, int] = {}
        for line in self.log.read_text("utf-8", "replace").splitlines():
            try:
                event = json.loads(line)["event"]
            except (ValueError, KeyError, TypeError):
                event = f"no JSON: {line[:200]}"
            found[event] = found.get(event, 0) + 1
        return found

    def leaks(self) -> list[str]:
        """Return the lines of the log that hold a token, a traceback or what is no text."""
        return [
            line[:300]
            for line in self.log.read_text("utf-8", "replace").splitlines()
            if TOKEN in line or "Traceback" in line or not line.isascii() or len(line) > 1_000
        ]

    def stray(self) -> list[str]:
        """Return the files that came after the service was ready, below all it sees as its own."""
        return sorted(self._files() - self._ready_files)

    def _files(self) -> set[str]:
        root = Path(self._folder.name)
        return {
            str(each.relative_to(root))
            for name in ("tmp", "home", "here")
            for each in (root / name).rglob("*")
            if each.is_file()
        }

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            if self.get("/readyz").status == 200:
                return
            time.sleep(0.3)
        raise RuntimeError(f"the service is not ready: {self.log.read_text()[-2_000:]}")


def read_answer(heard: bytes, late: bool) -> tuple[int | None, str, bytes]:
    """Return status, code and body of the last answer in what was heard."""
    if not heard:
        return None, "waiting" if late else "none", b""
    head, _, body = heard[max(0, heard.rfind(b"HTTP/1.1 ")) :].partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else None
    if status is None:
        return None, "no_http", heard
    if status < 400:
        return status, "ok", body
    try:
        error = json.loads(body)["error"]
        return status, str(error["code"]), body if error["message"].endswith(".") else b"?"
    except (ValueError, KeyError, TypeError):
        return status, "plain" if body else "no_body", body


def wrong(message: Message, answer: Answer) -> str | None:
    """Return what is wrong with an answer, None if nothing is."""
    if answer.status is None:
        closed = message.kind == "no_http" or not message.answered
        return None if closed else f"no answer ({answer.code})"
    if answer.status >= 500 and (answer.status, answer.code) not in (
        (503, "shutting_down"),
        (504, "deadline"),
    ):
        return f"status {answer.status} ({answer.code})"
    if b'"code": "internal"' in answer.body or b'"code": "worker_lost"' in answer.body:
        return "a line with an error in place of an attacked sound"
    if message.statuses and answer.status not in message.statuses:
        return f"status {answer.status} ({answer.code}), expected {message.statuses}"
    if answer.status >= 400:
        if answer.code == "plain":
            return f"status {answer.status} without JSON"
        text = answer.body.decode("utf-8", "replace")
        for secret in SECRETS:
            if secret in text:
                return f"the answer holds {secret!r}"
        if len(text) > 600:
            return f"an error of {len(text)} characters"
    return None
