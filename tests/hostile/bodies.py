"""Several sounds in one body, and live sound, as no client should send them."""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any

from messages import LIMIT, TOKEN, Builder, Draw, Message, Sounds, request
from mutants import mutant

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


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


def frame(
    payload: bytes, draw: Random, opcode: int = 2, first: int = 0x80, *, masked: bool = True
) -> bytes:
    """Return a frame of a WebSocket (RFC 6455, 5.2)."""
    size, flag = len(payload), 0x80 * masked
    if size < 126:
        length = bytes([flag | size])
    elif size < 1 << 16:
        length = bytes([flag | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([flag | 127]) + size.to_bytes(8, "big")
    key = draw.randbytes(4)
    mask = (key * (size // 4 + 1))[:size]
    hidden = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")
    return bytes([first | opcode]) + length + (key + hidden if masked else payload)


def stream(sounds: Sounds, draw: Draw) -> Message:
    """Ask for live sound, and send samples, or what is none, in frames that are right or wrong."""
    rate = draw.choice((b"16000",) * 5 + (b"8000", b"0", b"-1", b"9" * 40, b"x", b"44100.5", b""))
    head = [
        draw.choice((b"GET",) * 9 + (b"POST",)) + b" /v1/stream?sample_rate=" + rate + b" HTTP/1.1",
        b"Host: service",
        b"Upgrade: " + draw.choice((b"websocket",) * 9 + (b"h2c",)),
        b"Connection: Upgrade, close",
        b"Sec-WebSocket-Version: " + draw.choice((b"13",) * 9 + (b"8",)),
        draw.choice((KEY,) * 9 + (b"Sec-WebSocket-Key: x",)),
        b"Authorization: Bearer " + draw.choice((TOKEN.encode(),) * 9 + (b"x" * 40,)),
        *draw.choice(((),) * 9 + ((b"Origin: https://other",),)),
    ]
    end = frame(b"end", draw, 1) + frame(b"\x03\xe8", draw, 8)
    chunk = draw.randbytes(2 * draw.choice((0, 1, 800, 8_000)))
    frames = draw.choice(
        (
            frame(chunk, draw) * 3 + end,
            frame(chunk + b"x", draw) + end,
            frame(chunk, draw, first=0) + frame(chunk, draw, 0) + end,
            frame(chunk, draw, masked=False) + end,
            frame(chunk, draw, 0) + end,
            frame(chunk, draw, draw.choice((3, 7, 11, 15))) + end,
            frame(chunk, draw, first=0xC0) + end,
            frame(b"a" * 100, draw, 9) * 300 + end,
            frame(b"a" * 200, draw, 9) + end,
            frame(b"\xff\xfe", draw, 1),
            frame(bytes((1 << 20) + 2), draw) + end,
            b"\x82\xff" + b"\x7f" + b"\xff" * 11,
            frame(b"\x00", draw, 8),
            frame(b"\x00\x05", draw, 8),
            draw.randbytes(300),
            frame(b"", draw, 1) + frame(chunk, draw) * 5,
        )
    )
    return Message("stream", b"\r\n".join(head) + b"\r\n\r\n", frames)


def tensor(sounds: Sounds, draw: Draw) -> Message:
    """Send samples as KServe does: a third without a fault, the others with one or two."""
    count = draw.choice((800, 1_600, 3_200))
    one: dict[str, object] = {
        "name": "x",
        "datatype": "FP32",
        "shape": draw.choice(([count], [1, count], [count // 8, 8])),
        "data": [round(draw.uniform(-1, 1), 4) for _ in range(count)],
        "parameters": {"sample_rate": draw.choice((16_000, 16_000, 8_000, 44_100))},
    }
    whole: dict[str, object] = {"id": "a", "inputs": [one]}
    path, cut = draw.choice((b"purify", b"classify")), None
    for fault in draw.sample(sorted(TENSOR_FAULTS), draw.choice((0, 1, 2))):
        value = draw.choice(TENSOR_FAULTS[fault])
        if fault == "path":
            path = value
        elif fault == "text":
            cut = value
        elif fault == "rate":
            one["parameters"] = {"sample_rate": value}
        elif fault == "inputs":
            whole["inputs"] = [one] * value if isinstance(value, int) else value
        else:
            (whole if fault == "id" else one)[fault] = value
    text = json.dumps(whole)
    body = text if cut is None else cut or text[: len(text) // 2]
    to, headers = b"/v2/models/" + path + b"/infer", (b"Content-Type: application/json",)
    return Message("tensor", request(to, body.encode()[:LIMIT], headers=headers))


TENSOR_FAULTS: dict[str, tuple[Any, ...]] = {
    "name": ("../../etc/passwd", "", 1),
    "datatype": ("FP64", "BYTES", None),
    "shape": ([-1], [2**70], [], "1600", [1.0, 1_600], [None], [0, 0], 7, [3, 5], [1, 1, 1_600]),
    "data": (
        *([value] * 1_600 for value in (1e39, -1e308, float("nan"), float("inf"), 10**400, 0)),
        *("text", None, {}, [None], ["1"], [[1], [1, 2]], [True], [[[]]], []),
        [[0.5, -0.5]] * 800,
        ["1"] * 16_000 + ["1" * 90_000],
    ),
    "parameters": ([], None, {}),
    "rate": (0, -1, 10**30, 8_000.0, "16000", None, True),
    "id": ("../../etc/passwd", "\r\nX: y", 1, None, "é" * 99),
    "inputs": (0, 2, [[]], {}, None),
    "text": ("", "[" * 100_000, '{"a":' * 30_000, "{"),
    "path": (b"..%2fpurify", b"other"),
}
"""What may be wrong about a tensor; an empty text stands for half of the right one."""


BODIES: dict[str, tuple[Builder, ...]] = {
    "form": (form,),
    "json": (of_json,),
    "stream": (stream,),
    "tensor": (tensor,),
}
