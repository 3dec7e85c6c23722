"""``servax serve`` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from service_running import PURIFIER, RECOGNISER, sound

from servax.cli import main

COMMAND = (sys.executable, "-m", "servax", "serve", "--port", "0", "--workers", "1")
NETWORKS = ("--model", RECOGNISER, "--purifier", PURIFIER)


def served(*options: str) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    return run_served(*COMMAND, *NETWORKS, *options)


@contextmanager
def run_served(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        until = time.monotonic() + 60
        while httpx.get(f"{url}/readyz").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def test_what_was_accepted_is_finished_after_a_signal() -> None:
    with served() as (process, url):
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 1
        for child in children:
            child.suspend()  # nothing is answered before all have asked, however fast it is
        answers: list[int] = []
        ask = {"headers": {"Content-Type": "audio/wav"}, "timeout": 60.0}

        def send() -> None:
            answers.append(httpx.post(f"{url}/v1/purify", content=sound(2.0), **ask).status_code)

        senders = [threading.Thread(target=send) for _ in range(6)]
        with httpx.Client(base_url=url) as client:
            for each in senders:
                each.start()
            wait_for(lambda: "servax_in_flight 6.0" in client.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: client.get("/readyz").json()["status"] == "shutting_down")
            refused = client.post("/v1/purify", content=sound(), **ask)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
        for child in children:
            child.resume()
        for each in senders:
            each.join(60)
        assert answers == [200] * 6
        _, logged = process.communicate(timeout=30)
        assert process.returncode == 0
        events = [json.loads(line)["event"] for line in logged.splitlines()]
        assert events[:2] == ["worker_ready", "listening"]
        assert events[-1] == "ended"
        wait_for(lambda: not any(child.is_running() for child in children))


def test_no_worker_outlives_a_server_that_was_killed() -> None:
    with served() as (process, _):
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(30)
        psutil.wait_procs(children, timeout=20)
        assert not [child for child in children if child.is_running()]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--host", "0.0.0.0"), 2, "--token-file FILE, or --allow-open"),
        (("--token-file", "/nowhere/tokens"), 2, "/nowhere/tokens: cannot be read"),
        (("--workers", "0"), 2, "workers is 0, expected a whole number of at least 1"),
        (("--deadline", "-1"), 2, "deadline is -1.0, expected a number of seconds > 0"),
        (("--batch-wait", "-1"), 2, "batch_wait is -1.0, expected a number >= 0"),
        (("--max-seconds", "0"), 2, "max_seconds is 0.0, expected a number of seconds > 0"),
        (("--port", "99999"), 2, "port is 99999"),
    ],
)
def test_bad_use_is_one_sentence(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: int, sentence: str
) -> None:
    assert main(["serve", "--port", "0", *options]) == code
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1
    assert not told.out


def test_settings_come_from_a_file_and_the_environment_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("queue: 0\nport: 0\n")
    config = ("serve", "--config", str(file))
    assert main(config) == 2
    assert "queue is 0" in capsys.readouterr().err
    monkeypatch.setenv("SERVAX_SERVE_QUEUE", "-1")
    assert main(config) == 2
    assert "queue is -1" in capsys.readouterr().err
    assert main([*config, "--queue", "-2"]) == 2
    assert "queue is -2" in capsys.readouterr().err


def test_networks_that_are_missing_end_it_with_one_sentence() -> None:
    ended = subprocess.run(
        [*COMMAND, "--model", "no-such-model"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert "servax: no-such-model: no such folder" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--port", "0"]) == 1
    assert "pip install '.[serve]' in its checkout" in capsys.readouterr().err


HELP = """
import sys
from servax.cli import main
main(["serve", "--help"])
assert not {"torch", "fastapi"} & set(sys.modules)
"""
SERVER = """
import sys
import servax.cli.serve, servax.service.app, servax.service.server
assert "torch" not in sys.modules
"""


def run(code: str) -> str:
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_help_tells_units_and_loads_no_torch() -> None:
    told = run(HELP)
    for words in ("in milliseconds", "in seconds; then 504", "default: 127.0.0.1", "20971520"):
        assert words in told, words


def test_the_server_itself_loads_no_torch() -> None:
    run(SERVER)


def test_a_token_file_that_others_can_read_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o644)
    assert main(["serve", "--port", "99999", "--token-file", str(file)]) == 2
    assert "can be read by everybody" in capsys.readouterr().err
