"""A slice of the ten thousand requests of ``fuzz_service.py``, and what its judge sees.

The service is a process of its own: ``servax serve`` with the packaged synthetic networks.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bodies import BODIES
from fuzz_service import attack, finished
from messages import ATTACKS, BUILDERS, TOKEN, Draw, Message, message, request
from served import Answer, Served, read_answer, wrong
from test_hostile_sound import SEEDS

SOUNDS = {f"0-{name}": body for name, body in SEEDS.items()}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(workers=1) as running:
        yield running


def test_hostile_requests_are_refused_and_good_ones_answered(served: Served) -> None:
    record = attack(served, SOUNDS, 300, seed=1, slow=0)
    assert record["faults"] == []
    assert record["good_requests"] == {
        "/v1/classify 200": 3,
        "/v1/purify 200": 3,
        "/healthz 200": 3,
    }
    assert record["workers_same"]
    assert record["rss_peak_mib"] < record["rss_ready_mib"] + 300
    assert set(record["answers"]) == {message(SOUNDS, Draw(str(i))).kind for i in range(200)}
    assert len(record["answers"]) >= len(set(BUILDERS)) - 1


def test_hostile_sounds_are_not_attacked(served: Served) -> None:
    record = attack(served, SOUNDS, 60, seed=2, slow=0, routes=ATTACKS)
    assert record["faults"] == []
    assert record["workers_same"]
    assert {"200 ok", "415 not_sound", "413 too_large"} <= set(record["statuses"])


@pytest.mark.parametrize(
    ("only", "seen"),
    [("form", "200 ok"), ("json", "422 bad_parts"), ("stream", "101 ok"), ("tensor", "200 ok")],
)
def test_hostile_bodies_of_other_forms_are_refused(served: Served, only: str, seen: str) -> None:
    record = attack(served, SOUNDS, 60, seed=3, slow=0, builders=BODIES[only])
    assert record["faults"] == []
    assert record["workers_same"]
    assert seen in record["statuses"]
    assert record["rss_peak_mib"] < record["rss_ready_mib"] + 300


def test_bytes_of_a_bad_mp3_stay_out_of_the_log(served: Served) -> None:
    sound = SOUNDS["0-mp3-mpeg_layer_iii"]
    at = len(sound) // 2
    broken = sound[:at] + b"SECRET WORDS OF A SPEAKER " * 4 + sound[at:]
    assert served.send(Message("mp3", request(b"/v1/classify", broken))).status in (200, 422)
    assert [event for event in served.events() if event.startswith("no JSON")] == []


def test_the_end_leaves_nothing_behind(served: Served) -> None:
    told = finished(served)
    assert (told["exit_code"], told["log_leaks"], told["stray_files"]) == (0, [], [])
    assert not set(told["events"]) & {"broke", "worker_broke", "worker_lost"}


ANY = Message("any", b"")
FINE = Answer(422, "damaged", b"", 0.1)


def answered(status: int | None, code: str = "x", body: bytes = b"") -> Answer:
    return Answer(status, code, body, 0.1)


@pytest.mark.parametrize(
    ("sent", "answer", "fault"),
    [
        (ANY, FINE, None),
        (ANY, answered(504, "deadline"), None),
        (ANY, answered(500, "internal"), "status 500 (internal)"),
        (ANY, answered(503, "plain"), "status 503 (plain)"),
        (ANY, answered(None, "waiting"), "no answer (waiting)"),
        (Message("any", b"", answered=False), answered(None, "waiting"), None),
        (Message("token", b"", statuses=(401,)), answered(200), "status 200 (x), expected (401,)"),
        (ANY, answered(400, "plain", b"oh"), "status 400 without JSON"),
        (ANY, answered(422, "x", b'at "/work/x"'), "the answer holds '/work'"),
        (
            ANY,
            answered(200, "ok", b'{"a": 1}\n{"error": {"code": "internal", "message": "."}}'),
            "a line with an error in place of an attacked sound",
        ),
        (ANY, answered(401, "x", TOKEN.encode()), f"the answer holds {TOKEN!r}"),
        (ANY, answered(422, "x", b"y" * 601), "an error of 601 characters"),
    ],
)
def test_the_judge_sees(sent: Message, answer: Answer, fault: str | None) -> None:
    assert wrong(sent, answer) == fault


@pytest.mark.parametrize(
    ("heard", "late", "status", "code"),
    [
        (b"", False, None, "none"),
        (b"", True, None, "waiting"),
        (b"garbage", False, None, "no_http"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nxyz", False, 200, "ok"),
        (b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 415 X\r\n\r\nno", False, 415, "plain"),
        (b"HTTP/1.1 405 X\r\n\r\n", False, 405, "no_body"),
        (
            b'HTTP/1.1 422 X\r\n\r\n{"error": {"code": "empty", "message": "It is."}}',
            False,
            422,
            "empty",
        ),
    ],
)
def test_answers_are_read(heard: bytes, late: bool, status: int | None, code: str) -> None:
    assert read_answer(heard, late)[:2] == (status, code)
