"""Several sounds in one body, as no client should send them."""

from __future__ import annotations

import base64
import json
from random import Random

from messages import LIMIT, Builder, Draw, Message, Sounds, request
from mutants import mutant


def sound(sounds: Sounds, draw: Random) -> bytes:
    """Return a sound, half of the time one that was changed."""
    whole = sounds[draw.choice(sorted(sounds))]
    return (mutant(sounds, draw)[1] if draw.random() < 0.5 else whole)[: LIMIT // 4]


def form(sounds: Sounds, draw: Draw) -> Message:
    """Send a form of files, most of which break its rules."""
    edge = draw.choice((b"x",) * 9 + (b"x" * 70, b"x" * 5_000, b"--", b"\xff", b'"', b""))
    name = draw.choice(
        (b"a",) * 9 + (b"", b"a" * 9_000, b"../../etc/passwd", b"\xff", b'a"; filename="b')
    )
    kind = draw.choice((b"audio/wav", b"text/html", b"multipart/mixed; boundary=x", b""))
    count = draw.choice((1, 2, 2, 3, 33))
    parts = [
        b'Content-Disposition: form-data; name="' + name + b'"'
        + draw.choice((b'; filename="a.wav"',) * 5 + (b"; filename*=utf-8''%ff", b"; filename="))
        + b"\r\nContent-Type: " + kind + draw.choice((b"\r\n\r\n",) * 9 + (b"\r\n", b"\n\n", b""))
        + (sound(sounds, draw) if count < 4 else b"RIFF")
        for _ in range(count)
    ]  # fmt: skip
    body = b"".join(b"--" + edge + b"\r\n" + part + b"\r\n" for part in parts)
    body += draw.choice((b"--" + edge + b"--\r\n",) * 5 + (b"--" + edge + b"--", b"", b"--" + edge))
    told = draw.choice((edge,) * 9 + (b"other", b"", b'"' + edge))
    header = b"Content-Type: multipart/form-data" + draw.choice(
        (b"; boundary=" + told,) * 9 + (b"; boundary=" + told + b"; boundary=y", b"")
    )
    return Message("form", request(b"/v1/purify", body[:LIMIT], headers=(header,)))


def of_json(sounds: Sounds, draw: Draw) -> Message:
    """Send sounds in base64, or JSON that holds something else, or is none."""
    texts = [base64.b64encode(sound(sounds, draw)[:60_000]).decode() for _ in range(2)]
    body = draw.choice(
        (
            json.dumps({"sounds": texts}),
            json.dumps({"sounds": [texts[0], ""]}),
            json.dumps({"sounds": [texts[0][:-3], texts[1]]}),
            json.dumps({"sounds": ["UklGRg=="] * 33}),
            json.dumps({"sounds": texts[0]}),
            json.dumps({"sounds": [1, None, {"a": []}]}),
            json.dumps({"sounds": ["é\ud800"]}),
            json.dumps({"sound": texts[0], "sounds": []}),
            json.dumps([texts[0]]),
            json.dumps({"sounds": texts})[: draw.randrange(1, 9_000)],
            '{"sounds":' * 30_000,
            "[" * 100_000,
            "1e999999",
            "9" * 9_000,
            "NaN",
            '{"sounds": ["a"], "sounds": ["b"]}',
            "\ufeff{}",
            "",
        )
    )
    sent = draw.choice(
        (body.encode("utf-8", "surrogatepass"),) * 5 + (body.encode("utf-16", "replace"),)
    )
    kind = draw.choice((b"application/json",) * 3 + (b"application/json; charset=utf-7",))
    return Message(
        "json", request(b"/v1/purify", sent[:LIMIT], headers=(b"Content-Type: " + kind,))
    )


BODIES: dict[str, tuple[Builder, ...]] = {"form": (form,), "json": (of_json,)}
