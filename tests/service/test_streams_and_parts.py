"""Several sounds in one body, and live sound over a WebSocket, on a service that runs."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from service_running import PURIFIER, Running, samples_of, sound
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from servax.purifier import Purifier
from servax.service import Tokens

BODIES = [sound(0.6, seed=1), sound(1.0, 8_000, channels=2, seed=2)]


def as_json(*sounds: bytes) -> bytes:
    return json.dumps({"sounds": [base64.b64encode(each).decode() for each in sounds]}).encode()


def test_several_sounds_come_back_as_each_alone(service: Running) -> None:
    alone = [service.post("/v1/purify", body).content for body in BODIES]
    form = service.client.post("/v1/purify", files=[("a", ("é.wav", each)) for each in BODIES])
    given = service.post("/v1/purify", as_json(*BODIES), Content_Type="application/json")
    for answer in (form, given):
        assert answer.status_code == 200
        told = answer.json()["sounds"]
        assert [base64.b64decode(each["sound"]) for each in told] == alone
        assert [each["error"] for each in told] == [None, None]


def test_one_bad_sound_does_not_keep_the_others_back(service: Running) -> None:
    body = as_json(BODIES[0], b"no sound")
    answer = service.post("/v1/purify?format=flac", body, Content_Type="application/json")
    good, bad = answer.json()["sounds"]
    assert base64.b64decode(good["sound"]).startswith(b"fLaC")
    assert bad["sound"] is None
    assert bad["error"]["code"] == "not_sound"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"sounds": ["\xff"]}'),
        ("application/json", b'{"sounds": ["?"]}'),
        ("application/json", b'{"sounds": []}'),
        ("application/json", as_json(*[b"x"] * 33)),
        ("application/json", b'{"sounds": [""], "x": [' + b"0," * 100_000 + b"0]}"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nno header\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x--\r\n"),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n1\r\n--x--\r\n',
        ),
    ],
)
def test_bodies_that_hold_no_parts_are_refused(service: Running, kind: str, body: bytes) -> None:
    answer = service.post("/v1/purify", body, Content_Type=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "bad_parts")


def test_sounds_of_one_body_share_the_limit_of_one(service: Running) -> None:
    body = as_json(*[sound(2.0, 8_000, seed=seed) for seed in range(4)])  # max_seconds is 5 here
    sounds = service.post("/v1/purify", body, Content_Type="application/json").json()["sounds"]
    codes = [each["error"] and each["error"]["code"] for each in sounds]
    assert codes == [None, None, "too_long", "too_long"]
    assert service.line("bytes", len(body))["sound_seconds"] == 4.0


def test_parts_are_at_work_together(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = []
    put = service.dispatcher.put

    def watched(task: Any) -> Any:
        inside.append(len(service.dispatcher._pending) + 1)
        return put(task)

    monkeypatch.setattr(service.dispatcher, "put", watched)
    answer = service.post("/v1/purify", as_json(*BODIES[:1] * 6), Content_Type="application/json")
    assert [each["error"] for each in answer.json()["sounds"]] == [None] * 6
    assert inside == [1, 2, 2, 2, 2, 2]  # of one request, whatever it holds


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null", "http://["])
def test_pages_of_other_hosts_send_no_sound(service: Running, origin: str) -> None:
    answer = service.post("/v1/purify", BODIES[0], Origin=origin)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "other_origin")
    form = service.client.post("/v1/purify", files={"a": BODIES[0]}, headers={"Origin": origin})
    assert form.status_code == 403
    with pytest.raises(InvalidStatus, match="403"):
        opened(service, origin=origin)


def test_the_page_of_this_host_sends_sound(service: Running) -> None:
    behind_a_proxy = {"Origin": "https://sound.example", "Sec_Fetch_Site": "same-origin"}
    for headers in ({"Origin": service.url}, behind_a_proxy):
        assert service.post("/v1/purify", BODIES[0], **headers).status_code == 200


def opened(service: Running, rate: Any = 16_000, **more: Any) -> ClientConnection:
    url = f"{service.url.replace('http', 'ws')}/v1/stream?sample_rate={rate}"
    return connect(url, compression=None, open_timeout=60, **more)


def streamed(socket: ClientConnection, samples: np.ndarray, chunk: int) -> tuple[Any, Any, Any]:
    """Return what is said first, the samples that come back, and what is said last."""
    said = json.loads(socket.recv(60))
    for start in range(0, len(samples), chunk):
        socket.send(samples[start : start + chunk].tobytes())
    socket.send("end")
    parts = []
    while isinstance(message := socket.recv(60), bytes):
        parts.append(message)
    return said, np.frombuffer(b"".join(parts), dtype="<i2"), json.loads(message)


@pytest.mark.parametrize(("rate", "chunk"), [(16_000, 1_600), (8_000, 5_001)])
def test_a_stream_gives_what_the_stream_of_the_library_gives(
    service: Running, rate: int, chunk: int
) -> None:
    samples = np.rint(samples_of(sound(3.0, rate))[0][:, 0] * 32_768).astype("<i2")
    with opened(service, rate) as socket:
        said, found, told = streamed(socket, samples, chunk)
    stream = Purifier.from_pretrained(PURIFIER).frozen().stream(rate)
    expected = np.concatenate([stream.feed(samples / np.float32(32_768)), stream.finish()])
    assert said == {"sample_rate": rate, "latency_seconds": stream.latency_seconds}
    assert told["samples"] == len(found) == len(samples)
    np.testing.assert_allclose(found / 32_768, np.clip(expected, -1, 1), atol=2 * 2.0**-15)


def test_samples_come_back_within_the_latency_that_is_said(service: Running) -> None:
    samples = np.rint(samples_of(sound(1.0))[0][:, 0] * 32_768).astype("<i2")
    with opened(service) as socket:
        latency = round(json.loads(socket.recv(60))["latency_seconds"] * 16_000)
        socket.send(samples.tobytes())
        assert len(socket.recv(60)) // 2 >= len(samples) - latency


def test_what_no_stream_takes_is_refused(service: Running) -> None:
    with opened(service) as socket:
        socket.recv(60)
        socket.send(b"odd")
        assert json.loads(socket.recv(60))["error"]["code"] == "bad_chunk"
        with pytest.raises(ConnectionClosed):
            socket.recv(60)
    with opened(service) as socket:  # body_timeout is 1 s here
        socket.recv(60)
        assert json.loads(socket.recv(60))["error"]["code"] == "slow_body"
    with opened(service, 1_000) as socket:
        socket.recv(60)
        socket.send(bytes(2 * 5_001))
        assert json.loads(socket.recv(60))["error"]["code"] == "bad_chunk"
    with opened(service) as socket:  # a sample now and then holds no place
        socket.recv(60)
        message = None
        for _ in range(40):
            if message is None:
                socket.send(bytes(2))
                with suppress(TimeoutError):
                    message = socket.recv(0.2)
        assert json.loads(message or "")["error"]["code"] == "slow_body"
    for query in ("10", "96001", "x", "8000&sample_rate=16000", "8000&rate=8000"):
        with pytest.raises(InvalidStatus, match="422") as denied:
            opened(service, query)
        error = json.loads(denied.value.response.body)["error"]
        assert error["code"] == "bad_parameter"
        assert "sample_rate" in error["message"]
    lines = [line for line in service.lines() if line["event"] == "stream"]
    assert {"bad_chunk", "slow_body"} <= {line.get("code") for line in lines}


def test_a_stream_asks_for_a_token() -> None:
    with Running(tokens=Tokens(["a-token-of-sixteen"])) as running:
        running.wait(lambda: running.dispatcher.ready)
        with pytest.raises(InvalidStatus, match="401"):
            opened(running)
        known = {"Authorization": "Bearer a-token-of-sixteen"}
        with opened(running, additional_headers=known) as socket:
            assert "latency_seconds" in str(socket.recv(60))


def masked(kind: int, payload: bytes) -> bytes:
    """Return a frame of a client (RFC 6455, 5.2) whose mask is zeros."""
    return bytes([0x80 | kind, 0x80 | len(payload), 0, 0, 0, 0]) + payload


@contextmanager
def raw(service: Running) -> Iterator[socket.socket]:
    """Yield a connection whose handshake is done."""
    asked = (
        "GET /v1/stream?sample_rate=16000 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(asked.encode())
        answer = b""
        while b"latency_seconds" not in answer:
            answer += connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 101 ")
        yield connection


def test_a_text_that_is_no_text_ends_a_stream_and_breaks_nothing(service: Running) -> None:
    before = len(service.lines())
    with raw(service) as connection:
        connection.sendall(masked(1, b"\xff"))
        assert connection.recv(65_536)[:4] == b"\x88\x02" + (1007).to_bytes(2, "big")
    service.wait(lambda: any(each["event"] == "stream" for each in service.lines()[before:]))
    assert [each["event"] for each in service.lines()[before:]] == ["stream"]


def test_pings_of_who_never_reads_are_read_no_further(service: Running) -> None:
    pings = masked(9, bytes(125)) * 500
    with raw(service) as connection:
        connection.settimeout(5)
        sent = 0
        with suppress(OSError):
            while sent < 2**27:
                sent += connection.send(pings)
        assert sent < 2**25  # the buffers of both ends
        service.wait(lambda: not service.dispatcher._places)
        service.wait(lambda: closed(connection), 90)


def closed(connection: socket.socket) -> bool:
    """Say whether the other end is gone, though nothing was read here."""
    try:
        return connection.send(b"\0") < 0
    except TimeoutError:
        return False
    except OSError:
        return True
