"""Bearer tokens: who may ask."""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from servax.errors import PathError
from servax.files import expanded

SHORTEST = 16
LARGEST_FILE = 2**20
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)
"""What RFC 6750 lets a bearer token be."""


class Tokens:
    """The tokens a service knows; only their hashes are kept.

    Args:
        tokens: None at all means that everybody may ask.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._hashes = tuple(_hash(token.encode("ascii")) for token in tokens)

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def know(self, token: str) -> bool:
        """Say whether a token is one of them.

        The time this takes depends neither on how much of a token is right nor on which it is.
        """
        hashed = _hash(token.encode("utf-8", "surrogatepass"))
        # All are compared, also behind the right one.
        return sum(hmac.compare_digest(hashed, known) for known in self._hashes) > 0


def _hash(token: bytes) -> bytes:
    # Of one length for all, so that comparing tells nothing about theirs.
    return hashlib.sha256(token).digest()


def read_tokens(path: str | Path) -> Tokens:
    """Return the tokens in a file, one a line; empty lines and lines with ``#`` first are skipped.

    Raises:
        PathError: There is no such file, or it holds no token, or something that is none.
    """
    path = expanded(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise PathError(path, f"is larger than {LARGEST_FILE} bytes; expected a token a line")
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise PathError(path, f"cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise PathError(path, "is no text; expected a token a line") from None
    tokens = []
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if not token or token.startswith("#"):
            continue
        if len(token) < SHORTEST or not TOKEN.fullmatch(token):
            raise PathError(
                path,
                f"line {number} is no token: expected at least {SHORTEST} characters of A-Z a-z "
                "0-9 . _ ~ + / = -, e.g. what `openssl rand -hex 32` prints",
            )
        tokens.append(token)
    if not tokens:
        raise PathError(path, "holds no token; expected one a line")
    return Tokens(tokens)


def readable_by_others(path: str | Path) -> bool:
    """Say whether more than the owner and the group may read a file."""
    return bool(expanded(path).stat().st_mode & stat.S_IROTH)
