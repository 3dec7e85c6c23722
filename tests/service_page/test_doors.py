"""Which requests reach Gradio."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from servax.service import PageLimits
from servax.service.page.mounting import Guard

LIMITS = PageLimits(upload_bytes=1_000_000, held_bytes=2_000_000)


async def gradio(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"seen"})


def ask(
    folder: Path, method: str, path: str, *, length: str | None = None, kind: str = "http"
) -> tuple[int, dict[bytes, bytes]]:
    """Return the status of an answer and its headers."""
    headers = [] if length is None else [(b"content-length", length.encode())]
    scope = {"type": kind, "method": method, "path": f"/page{path}", "root_path": "/page"}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    doors = Guard(gradio, folder, LIMITS)
    asyncio.run(doors({**scope, "headers": headers}, receive, send))
    if kind == "websocket":
        return sent[0]["code"], {}
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/theme.css",
        "/assets/Index-9_a.js",
        "/static/js/x.min.js",
        "/gradio_api/queue/data",
        "/gradio_api/heartbeat/abc123",
    ],
)
def test_what_the_page_needs_passes(tmp_path: Path, path: str) -> None:
    status, headers = ask(tmp_path, "GET", path)
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x"] == b"y"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/proxy=https://example.org/"),
        ("GET", "/gradio_api/file=https://example.org/a.wav"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file={folder}/../secret.wav"),
        ("GET", "/gradio_api/file={folder}-other/secret.wav"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/token"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/assets/../config"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/call/try_it"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/config"),
    ],
)
def test_the_rest_is_not_there(tmp_path: Path, method: str, path: str) -> None:
    assert ask(tmp_path, method, path.format(folder=tmp_path), length="10")[0] == 404


def test_a_clip_of_the_folder_is_served(tmp_path: Path) -> None:
    assert ask(tmp_path, "GET", f"/gradio_api/file={tmp_path}/a/audio.wav")[0] == 200


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("/gradio_api/upload", "1000000", 200),
        ("/gradio_api/upload", "1100000", 413),
        ("/gradio_api/upload", None, 411),
        ("/gradio_api/upload", "-1", 411),
        ("/gradio_api/queue/join", "2000", 200),
        ("/gradio_api/queue/join", "1000000", 413),
        ("/login", "100", 200),
    ],
)
def test_bodies_are_bounded(tmp_path: Path, path: str, length: str | None, status: int) -> None:
    assert ask(tmp_path, "POST", path, length=length)[0] == status


def test_a_full_folder_takes_no_more(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "held.wav").write_bytes(b"\0" * 1_500_000)
    status, headers = ask(tmp_path, "POST", "/gradio_api/upload", length="900000")
    assert status == 429
    assert headers[b"retry-after"] == b"60"


def test_nothing_else_than_http(tmp_path: Path) -> None:
    assert ask(tmp_path, "GET", "/", kind="websocket")[0] == 1008
