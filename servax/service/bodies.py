"""Reads the body of a request: refused by its headers alone where possible, else counted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from servax.service.refusals import ClientGone, Refusal

Receive = Callable[[], Awaitable[Any]]
UNREAD_BYTES = 2**20
"""What is left of a refused body is read and thrown away up to here; else the connection ends."""


def check_headers(headers: Mapping[str, str], most: int) -> None:
    """Refuse a body for what its headers say.

    Args:
        headers: Of the request; names in any case.
        most: Largest number of bytes.

    Raises:
        Refusal: It is too large, no sound, or compressed.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind.startswith("audio/") or kind == "application/octet-stream"):
        raise Refusal(
            415,
            "not_audio_type",
            f"The Content-Type is {kind[:80] or 'missing'!r}, expected audio/... or "
            "application/octet-stream, with the sound itself as the body.",
        )
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise Refusal(415, "encoded", "The body has a Content-Encoding; send it as it is.")
    length = stated_length(headers)
    if length is not None and length > most:
        raise too_large(most)
    if length == 0 or (length is None and "transfer-encoding" not in headers):
        raise Refusal(422, "empty", "The body is empty, expected a sound.")


async def read_body(receive: Receive, most: int, seconds: float) -> bytes:
    """Return the body of a request.

    Args:
        receive: Of ASGI.
        most: Largest number of bytes.
        seconds: How long all of it may take to arrive.

    Raises:
        Refusal: It is too large, empty, or arrives too slowly.
        ClientGone: The connection ended before the body.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                if len(body) > most:
                    raise too_large(most)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(
            408,
            "slow_body",
            f"The body did not arrive within {seconds:g} s; send a shorter sound or use a faster "
            "connection.",
        ) from None
    if not body:
        raise Refusal(422, "empty", "The body is empty, expected a sound.")
    return bytes(body)


async def disconnected(receive: Receive) -> None:
    """Return when the client has closed the connection, after its body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def stated_length(headers: Mapping[str, str]) -> int | None:
    """Return what Content-Length says, or None."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def too_large(most: int) -> Refusal:
    """Return the refusal of a body that is too large."""
    return Refusal(
        413,
        "too_large",
        f"The body is larger than {most} bytes; send a shorter sound, or FLAC in place of WAV.",
    )
