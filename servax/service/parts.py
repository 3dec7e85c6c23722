"""Several sounds in one body: files of a form (multipart/form-data), or base64 in JSON.

All of it stays in memory, within the limits of a body.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator, Sized
from typing import TYPE_CHECKING

from servax.service.responses import Refusal

if TYPE_CHECKING:
    from starlette.datastructures import Headers

FORM, JSON = "multipart/form-data", "application/json"
MOST_SOUNDS = 32
"""In one body."""


async def sounds_of(headers: Headers, body: bytes) -> list[bytes]:
    """Return the sounds in a body, each as it lies in a file, in their order.

    Args:
        headers: Of the request; the Content-Type is `FORM` or `JSON`.
        body: Files of a form under any names, or ``{"sounds": ["base64", ...]}``.

    Raises:
        Refusal: The body is neither, or holds no sound or too many.
    """
    form = headers["content-type"].partition(";")[0].strip().lower() == FORM
    sounds = await _of_form(headers, body) if form else _of_json(body)
    _check_number(sounds)
    return sounds


async def _of_form(headers: Headers, body: bytes) -> list[bytes]:
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    class InMemory(MultiPartParser):
        spool_max_size = len(body) + 1

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await InMemory(headers, whole(), max_files=MOST_SOUNDS, max_fields=0).parse()
    except (MultiPartException, UnicodeError):  # UnicodeError: charset=undefined
        raise _bad("is no such form") from None
    try:
        files = [file for _, file in form.multi_items() if isinstance(file, UploadFile)]
        return [await file.read() for file in files]
    finally:
        await form.close()


def _of_json(body: bytes) -> list[bytes]:
    # Each value becomes an object of its own: twenty million commas would be a GB.
    if body.count(b",") > MOST_SOUNDS + 8 or body.count(b"[") + body.count(b"{") > 8:
        raise _bad("holds more values than sounds need")
    try:
        given = json.loads(body)
        sounds = given["sounds"] if isinstance(given, dict) else None
        if not isinstance(sounds, list) or not all(isinstance(each, str) for each in sounds):
            raise ValueError
        _check_number(sounds)
        return [base64.b64decode(each, validate=True) for each in sounds]
    except (ValueError, KeyError, RecursionError, binascii.Error):
        raise _bad("is no such JSON") from None


def _check_number(sounds: Sized) -> None:
    if not 1 <= len(sounds) <= MOST_SOUNDS:
        raise _bad(f"holds {len(sounds)} sounds")


def _bad(what: str) -> Refusal:
    return Refusal(
        422,
        "bad_parts",
        f"The body {what}; expected 1 to {MOST_SOUNDS} sounds: files of a form, or the JSON "
        'object {"sounds": ["base64 of a file", ...]}.',
    )
