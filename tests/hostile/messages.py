"""HTTP requests that no client should send, as the bytes of a connection.

Each is drawn from a `random.Random` and says what kind it is, and whether an answer must come: a
request whose body never arrives in full is given up by its client.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mutants import mutant

TOKEN = "hostile-token-0123456789abcdef"
LIMIT = 200_000
"""What the service under test lets a body have, in bytes."""
ROUTES = ("/v1/purify", "/v1/classify")
ATTACKS = ("/v1/attack?method=none", "/v1/attack?method=fgsm&snr_db=10", "/v1/attack?method=fgsm")
"""Each of them takes the way of all attacks; one of many steps would only take longer."""
Sounds = Mapping[str, bytes]


class Draw(random.Random):
    """Draws whatever a message takes; the same for the same seed.

    Args:
        seed: Names the message.
        routes: Where messages go that are not about paths.
        builders: What makes them; default `BUILDERS`.
    """

    def __init__(
        self, seed: str, routes: tuple[str, ...] = ROUTES, builders: tuple[Builder, ...] = ()
    ) -> None:
        super().__init__(seed)
        self.routes = routes
        self.builders = builders or BUILDERS

    def __new__(cls, *_: object, **__: object) -> Draw:
        return super().__new__(cls)


@dataclass(frozen=True)
class Message:
    """What is sent over one connection."""

    kind: str
    """Which builder made it."""
    sent: bytes
    """The whole of it."""
    upgraded: bytes = b""
    """What is sent once the connection is one of a WebSocket."""
    answered: bool = True
    """Whether the service owes an answer: not for half a request."""
    statuses: tuple[int, ...] = ()
    """Which answers are right; none means any that is not a failure of the service."""


def message(sounds: Sounds, draw: Draw) -> Message:
    """Return one request."""
    builder = draw.choice(draw.builders)
    return builder(sounds, draw)


def request(
    path: bytes,
    body: bytes = b"",
    *,
    method: bytes = b"POST",
    headers: tuple[bytes, ...] | None = None,
    token: bytes | None = b"Bearer " + TOKEN.encode(),
    length: bytes | None = None,
) -> bytes:
    """Return a request that is right but for what is given."""
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: service", b"Connection: close"]
    if token is not None:
        lines.append(b"Authorization: " + token)
    lines += (b"Content-Type: audio/wav",) if headers is None else headers
    lines.append(b"Content-Length: " + (str(len(body)).encode() if length is None else length))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def path(draw: Draw) -> bytes:
    return draw.choice(draw.routes).encode()


def bare(token: bytes = b"Bearer " + TOKEN.encode()) -> bytes:
    """Return headers without any of a body."""
    return b"Host: service\r\nConnection: close\r\nAuthorization: " + token + b"\r\n"


def sound_body(sounds: Sounds, draw: Draw) -> Message:
    return Message("sound", request(path(draw), mutant(sounds, draw)[1][:LIMIT]))


def wrong_length(sounds: Sounds, draw: Draw) -> Message:
    """Lie about the length of a body: more than comes, less, twice, in words, in 5,000 digits."""
    body = sounds[draw.choice(sorted(sounds))]
    size = len(body)
    told, answered = draw.choice(
        (
            (str(size + 100).encode(), False),
            (str(size // 2).encode(), True),
            (b"0", True),
            (b"-1", True),
            (b"+5", True),
            (b"1e3", True),
            (b"0x10", True),
            (b"\xb2\xb3", True),
            (b"", True),
            (b"9" * 20, True),
            (b"9" * 5_000, True),
            (b"%d\r\nContent-Length: %d" % (size, size + 1), True),
            (b"%d, %d" % (size, size), True),
            (b"%d\r\nTransfer-Encoding: chunked" % size, False),
        )
    )
    return Message("length", request(path(draw), body, length=told), answered=answered)


def chunked(sounds: Sounds, draw: Draw) -> Message:
    """Send a body in chunks, most of which break the rules."""
    body = mutant(sounds, draw)[1][:LIMIT]
    size = b"%x" % len(body)
    parts, answered = draw.choice(
        (
            (size + b"\r\n" + body + b"\r\n0\r\n\r\n", True),
            (b"1\r\n" + b"\r\n1\r\n".join([b"R", b"I", b"F"]) + b"\r\n0\r\n\r\n", True),
            (size + b";" + b"x" * 3_000 + b"\r\n" + body + b"\r\n0\r\n\r\n", True),
            (size + b"\r\n" + body + b"\r\n0\r\nTrailer: " + b"y" * 500 + b"\r\n\r\n", True),
            (b"FFFFFFFFFFFFFFFFFFFF\r\n" + body, True),
            (b"-1\r\n" + body, True),
            (b"zz\r\n" + body, True),
            (b"\r\n\r\n\r\n", True),
            (b"7fffffff\r\n" + body, False),
            (size + b"\r\n" + body, False),
            (b"0\r\n\r\n", True),
            ((b"1000\r\n" + bytes(4_096) + b"\r\n") * 60 + b"0\r\n\r\n", True),
        )
    )
    start = b"POST " + path(draw) + b" HTTP/1.1\r\n" + bare() + b"Content-Type: audio/wav\r\n"
    coding = draw.choice((b"chunked", b"chunked", b"chunked", b"gzip, chunked", b"identity", b"x"))
    told = b"Transfer-Encoding: " + coding + b"\r\n\r\n"
    return Message("chunked", start + told + parts, answered and coding == b"chunked")


def oversize(sounds: Sounds, draw: Draw) -> Message:
    """Announce, or send, more than is allowed."""
    if draw.random() < 0.7:
        told = str(draw.choice((LIMIT + 1, 10 * LIMIT, 2**31, 2**63, 10**18))).encode()
        return Message("oversize", request(path(draw), b"RIFF", length=told), statuses=(413,))
    body = bytes(LIMIT + draw.choice((1, 1_000)))
    return Message("oversize", request(path(draw), body), statuses=(413,))


def header_bomb(sounds: Sounds, draw: Draw) -> Message:
    """Send headers that are many, long, nested, folded, or hold bytes that none may."""
    filler = draw.choice(
        (
            b"X: " + b"a" * 100_000,
            b"X: " + b"a" * 1_000_000,
            b"\r\n".join(b"X-%d: 1" % i for i in range(2_000)),
            b"\r\n".join(b"X: 1" for _ in range(20_000)),
            b"Cookie: " + b"a=b;" * 10_000,
            b"X: a\r\n b\r\n\tc",
            b"X: a\0b",
            b"X: a\rb",
            b"X : a",
            b": a",
            b"no colon at all",
            "X: é中".encode(),
            b"X: \xff\xfe",
            b"Accept: " + b"audio/wav;q=0.1," * 3_000,
            b"Range: bytes=" + b"0-1," * 3_000,
            b"Content-Type: audio/wav; " + b"a=b;" * 3_000,
        )
    )
    return Message("headers", request(path(draw), sounds[min(sounds)], headers=(filler,)))


def odd_method(sounds: Sounds, draw: Draw) -> Message:
    methods = (
        b"GET PUT DELETE PATCH HEAD OPTIONS TRACE CONNECT PRI get FOO G\0T P\xc3\xb6ST".split()
    )
    method = draw.choice(
        (*methods, b"", b"A" * 10_000, b"POST POST", b"GET /x HTTP/1.1\r\nX: y\r\n")
    )
    return Message("method", request(path(draw), b"", method=method))


def odd_path(sounds: Sounds, draw: Draw) -> Message:
    """Ask for files of the machine, by every spelling of a step upwards."""
    up = draw.choice(
        (b"..", b"%2e%2e", b"%252e%252e", b"..%2f", b"..%5c", b"..\\", b"%c0%ae%c0%ae")
    )
    goal = draw.choice((b"etc/passwd", b"proc/self/environ", b"servax/service/app.py", b"", b"\0"))
    whole = draw.choice(
        (
            b"/v1/" + (up + b"/") * draw.randrange(1, 9) + goal,
            b"/" + up + b"/" + goal,
            b"//etc/passwd",
            b"/v1/purify/" + up + b"/classify",
            b"/v1/purify%00.wav",
            b"/v1/purify\0",
            b"/v1/purify;a=b",
            b"/v1//purify",
            b"/V1/PURIFY",
            b"/openapi.json/" + up,
            b"/" + b"a" * 70_000,
            b"http://other/v1/purify",
            b"*",
            b"",
            "/v1/püre".encode(),
            b"/static/" + up + b"/" + goal,
            b"/file=" + goal,
            b"/docs",
            b"/metrics/" + up,
        )
    )
    method = draw.choice((b"GET", b"POST"))
    return Message("path", request(whole, b"RIFF" if method == b"POST" else b"", method=method))


def odd_query(sounds: Sounds, draw: Draw) -> Message:
    value = draw.choice(
        (b"../../etc/passwd", b"%00", b"wav&format=flac", b"wav%0d%0aX:%20y", b"", b"W" * 60_000)
    )
    name = draw.choice((b"format", b"FORMAT", b"path", b"file", b"__class__", b"format[]", b"\xff"))
    way = path(draw)
    whole = way + (b"&" if b"?" in way else b"?") + name + b"=" + value
    return Message("query", request(whole, sounds[min(sounds)]))


def odd_token(sounds: Sounds, draw: Draw) -> Message:
    """Ask without the right token: never let in, whatever is like it."""
    right = TOKEN.encode()
    token = draw.choice(
        (
            None,
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer " + right[:-1],
            b"Bearer " + right + b"x",
            b"Bearer " + right.upper(),
            b"Bearer " + right[:8],
            b"Bearer " + b"a" * 50_000,
            b"Bearer " + "töken".encode(),
            b"Bearer \xff\xfe\xfd",
            b"Basic " + right,
            b"Bearer wrong\r\nAuthorization: Bearer wronger",
            b"Bearer wrong " + right,
            right,
        )
    )
    whole = request(path(draw), sounds[min(sounds)], token=token)
    # Bytes that no header may hold, and too long ones, are refused before anybody asks for a token.
    return Message("token", whole, statuses=(401, 400, 431))


def odd_types(sounds: Sounds, draw: Draw) -> Message:
    """Say that a sound is something else, or ask for something else."""
    headers = draw.choice(
        (
            (),
            (b"Content-Type: application/json",),
            (b"Content-Type: multipart/form-data; boundary=x",),
            (b"Content-Type: audio/../../x",),
            (b"Content-Type: " + b"audio/wav," * 500,),
            (b"Content-Type: \xff",),
            (b"Content-Type: audio/wav", b"Content-Encoding: gzip"),
            (b"Content-Type: audio/wav", b"Content-Encoding: " + b"gzip," * 200),
            (b"Content-Type: audio/wav", b"Accept: text/html"),
            (b"Content-Type: audio/wav", b"Accept: audio/flac;q=nan"),
            (b"Content-Type: audio/wav", b"Accept: audio/wav;q=1e999, ;;;=,=;q"),
            (b"Content-Type: audio/wav", b"Accept: */*;q=-1"),
            (b"Content-Type: audio/wav", b"Expect: 100-continue"),
            (b"Content-Type: audio/wav", b"Expect: tea"),
            (b"Content-Type: audio/wav", b"Upgrade: websocket", b"Sec-WebSocket-Key: x"),
            (b"Content-Type: audio/wav", b"X-Forwarded-For: 1.2.3.4", b"X-HTTP-Method: PUT"),
        )
    )
    return Message("types", request(path(draw), sounds[min(sounds)], headers=headers))


def no_http(sounds: Sounds, draw: Draw) -> Message:
    """Send what is no HTTP/1.1 at all."""
    sent = draw.choice(
        (
            draw.randbytes(300) + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(200) + b"\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST /v1/purify HTTP/1.0\r\n\r\n",
            b"\r\n" * 50 + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            request(b"/v1/purify", b"")[: draw.randrange(1, 120)],
        )
    )
    return Message("no_http", sent, answered=sent.endswith(b"\r\n\r\n") and len(sent) > 150)


Builder = Callable[[Sounds, Draw], Message]
BUILDERS: tuple[Builder, ...] = (
    sound_body,
    sound_body,
    sound_body,
    sound_body,
    wrong_length,
    chunked,
    oversize,
    header_bomb,
    odd_method,
    odd_path,
    odd_query,
    odd_token,
    odd_types,
    no_http,
)
