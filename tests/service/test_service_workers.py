"""Real worker processes that crash, hang and break."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from functools import partial

import psutil
import pytest
from service_running import SETTINGS, Running, sound
from worker_functions import count, die, fail, refuse, sleep, unpicklable

from servax.service import Refusal


def test_functions_run_in_a_worker(service: Running) -> None:
    assert service.done(count) == 9_600
    with pytest.raises(Refusal, match="volume is 11, expected at most 10"):
        service.done(refuse)
    for each in (fail, unpicklable):
        with pytest.raises(Refusal, match="Something broke"):
            service.done(each)
    assert "secret" not in service.log.getvalue()
    assert service.done(count) == 9_600


def test_workers_that_die_or_hang_are_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(replace(SETTINGS, work_seconds=1.5, deadline=60.0)) as service:
        assert service.client.get("/readyz").json()["status"] == "loading"
        service.wait(lambda: service.dispatcher.ready)
        (first,) = service.dispatcher.pids

        # Killed while a sound is at work: it is done by the next worker.
        killer = threading.Timer(0.3, os.kill, (first, signal.SIGKILL))
        killer.start()
        assert service.done(partial(sleep, seconds=0.8)) == "slept"
        assert service.post("/v1/classify", sound()).status_code == 200
        (second,) = service.dispatcher.pids
        assert second != first

        # Killed while it was idle: noticed before anybody asks.
        os.kill(second, signal.SIGKILL)
        service.wait(lambda: service.dispatcher.pids not in ([second], []))

        # One that hangs is killed.
        (third,) = service.dispatcher.pids
        with monkeypatch.context() as once:
            once.setattr("servax.service.dispatcher.TRIES", 1)
            with pytest.raises(Refusal, match=r"took longer than 1\.5 s"):
                service.done(partial(sleep, seconds=60.0))
        service.wait(lambda: service.dispatcher.pids not in ([third], []))
        assert not psutil.pid_exists(third)

        with pytest.raises(Refusal, match="2 workers crashed") as refused:
            service.done(die)
        assert refused.value.code == "worker_lost"
        assert service.done(count) == 9_600
        events = [line["event"] for line in service.lines()]
        assert events.count("worker_lost") == 5
        ours = service.dispatcher.pids
    service.wait(lambda: not any(psutil.pid_exists(pid) for pid in ours))
