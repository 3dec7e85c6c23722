"""One file from the net, resumed where it stopped, kept only with the right checksum."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from servax.corpora.description import Download
from servax.errors import FetchError, SettingError

__all__ = ["download"]

Progress = Callable[[int, int], None]
BLOCK = 1 << 18
TIMEOUT_SECONDS = 60
LARGEST_BYTES = 64 * 1024**3
DIGITS = {"md5": 32, "sha256": 64}


def download(what: Download, part: Path, *, progress: Progress | None = None) -> None:
    """Load a file into `part`; afterwards its checksum is right.

    What `part` already holds is kept, and only the rest is asked for (RFC 9110, section 14.2). A
    server that sends everything again is obeyed.

    Args:
        what: Address and checksum.
        part: File to write; it survives an interruption, so that the next call goes on.
        progress: Told the bytes that are there, and how many there will be (0: unknown).

    Raises:
        FetchError: The server refuses, the connection breaks, or the checksum is wrong (then
            `part` is removed).
        SettingError: The address is not https (http is allowed on this machine only), or the
            checksum is not one.
    """
    _check(what)
    try:
        _load(what, part, progress)
    except urllib.error.HTTPError as error:
        raise FetchError(f"{what.url}: the server answers {error.code} {error.reason}.") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise _interrupted(what, part, str(reason)) from None
    digest = hashlib.new(what.algorithm, usedforsecurity=False)
    with part.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != what.checksum.lower():
        part.unlink()
        raise FetchError(
            f"{what.url}: has {what.algorithm} {digest.hexdigest()}, expected {what.checksum}. "
            f"The file was removed; try again, or fetch the corpus by hand."
        )


def _check(what: Download) -> None:
    """Refuse an address that could be read or changed on its way, and a malformed checksum."""
    if not _is_safe(what.url):
        raise SettingError("url", what.url, "an https address (http only on this machine)")
    digits = DIGITS.get(what.algorithm)
    if digits is None:
        raise SettingError.choice("checksum algorithm", what.algorithm, DIGITS)
    if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", what.checksum):
        raise SettingError(what.algorithm, what.checksum, f"{digits} hexadecimal digits")


def _is_safe(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    return parts.scheme == "http" and _is_this_machine(parts.hostname or "")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where the first address could have pointed."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not _is_safe(newurl) or (req.type == "https" and not newurl.startswith("https:")):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _load(what: Download, part: Path, progress: Progress | None) -> None:
    """Append to `part` what it lacks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(what.url, headers={"User-Agent": "servax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    handlers: list[urllib.request.BaseHandler] = [_SafeRedirects()]
    if _is_this_machine(urllib.parse.urlsplit(what.url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    try:
        response = opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing after `have`: the checksum decides
            return
        raise
    with response:
        resumed = response.status == 206
        if resumed and not str(response.headers.get("Content-Range", "")).startswith(
            f"bytes {have}-"
        ):
            raise urllib.error.URLError("it resumes at the wrong place")
        start = have if resumed else 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else 0
        written = _append(response, part, start, total, progress)
    if total and written != total:
        raise urllib.error.URLError(f"it stopped at {written} of {total} bytes")


def _append(
    response: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int,
    progress: Progress | None,
) -> int:
    """Write the answer behind the first `start` bytes of `part`; return the new size."""
    written = start
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        while block := response.read(BLOCK):
            written += len(block)
            if written > LARGEST_BYTES:
                raise urllib.error.URLError(f"it sends more than {LARGEST_BYTES} bytes")
            file.write(block)
            if progress is not None:
                progress(written, total)
    return written


def _interrupted(what: Download, part: Path, reason: str) -> FetchError:
    have = part.stat().st_size if part.exists() else 0
    kept = f"{have} bytes are kept, run the command again to go on" if have else "try again later"
    return FetchError(f"{what.url}: cannot be loaded ({reason}): {kept}.")
