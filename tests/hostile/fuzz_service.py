"""Sends thousands of hostile requests to a real service on loopback, and counts what came.

    python tests/hostile/fuzz_service.py --requests 10000 --out results/hostile/service.json
    python tests/hostile/fuzz_service.py --attacks --out results/hostile/attack.json
    python tests/hostile/fuzz_service.py --only form --out results/hostile/form.json

Starts ``servax serve --page`` with the packaged synthetic networks, a token, and small limits.
Meanwhile slow clients hold connections, and good requests are sent after every hundred hostile
ones.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bodies import BODIES
from fuzz_sound import RECORDINGS, recordings, seeds_of
from messages import ATTACKS, ROUTES, Builder, Draw, Message, message, request
from served import Answer, Served, wrong

from servax.experiments.provenance import provenance

CLIENTS = 4
SLOW_CLIENTS = 16
SLOW_SECONDS = 20.0
HUNDRED = 100


def attack(
    served: Served,
    sounds: dict[str, bytes],
    requests: int,
    seed: int,
    slow: int = SLOW_CLIENTS,
    routes: tuple[str, ...] = ROUTES,
    builders: tuple[Builder, ...] = (),
) -> dict[str, Any]:
    """Return what became of the requests `seed`, 0 … `requests` - 1.

    Args:
        served: Who gets them.
        sounds: Sound files by name.
        requests: How many.
        seed: Names the run.
        slow: How many clients send a byte now and then meanwhile.
        routes: Where they go.
        builders: As of a `Draw`.
    """
    began = time.perf_counter()
    faults: list[dict[str, Any]] = []
    counts: dict[str, Counter[str]] = {}
    good: Counter[str] = Counter()
    slowest = 0.0
    idle = SlowClients(served, slow, sounds)

    def one(number: int) -> tuple[int, Message, Answer]:
        sent = message(sounds, Draw(f"{seed}/{number}", routes, builders))
        return number, sent, served.send(sent)

    with idle, ThreadPoolExecutor(CLIENTS) as pool:
        for start in range(0, requests, HUNDRED):
            numbers = range(start, min(start + HUNDRED, requests))
            for number, sent, answer in pool.map(one, numbers):
                slowest = max(slowest, answer.seconds)
                outcome = f"{answer.status or ''} {answer.code}".strip()
                counts.setdefault(sent.kind, Counter())[outcome] += 1
                fault = wrong(sent, answer)
                if fault is not None:
                    start_of = repr(sent.sent[:200])
                    faults.append(
                        {"number": number, "kind": sent.kind, "fault": fault, "sent": start_of}
                    )
            for path in ("/v1/classify", "/v1/purify"):
                right = Message("good", request(path.encode(), sounds["0-wav-pcm_16"]))
                good[f"{path} {served.send(right).status}"] += 1
            good[f"/healthz {served.get('/healthz').status}"] += 1
    return {
        "requests": requests,
        "seed": seed,
        "answers": {kind: dict(each.most_common()) for kind, each in sorted(counts.items())},
        "statuses": dict(sum(counts.values(), Counter()).most_common()),
        "good_requests": dict(good),
        "faults": faults,
        "slow_clients": idle.told,
        "slowest_seconds": round(slowest, 2),
        "seconds": round(time.perf_counter() - began, 1),
        "workers_same": served.workers() == served.ready_pids,
        "rss_ready_mib": round(served.ready_rss, 1),
        "rss_peak_mib": round(served.rss(), 1),
    }


class SlowClients:
    """Clients that send a byte now and then: of a head that never ends, or of a body.

    Args:
        served: Whose connections they hold.
        count: How many, half of each kind.
        sounds: What the bodies are of.
    """

    def __init__(self, served: Served, count: int, sounds: dict[str, bytes]) -> None:
        self._served = served
        self._head = b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nX-Slow: "
        self._body = request(b"/v1/purify", sounds["0-wav-pcm_16"])
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._one, args=(number % 2 == 0,)) for number in range(count)
        ]
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> None:
        for each in self._threads:
            each.start()

    def __exit__(self, *_: object) -> None:
        for each in self._threads:
            each.join(SLOW_SECONDS + 10)
        self._stop.set()

    @property
    def told(self) -> dict[str, int]:
        """Return how their connections ended."""
        return dict(self._counts)

    def _one(self, head: bool) -> None:
        sent = self._head if head else self._body[: self._body.find(b"\r\n\r\n") + 10]
        until = time.monotonic() + SLOW_SECONDS
        name, how = "head" if head else "body", "held to the end"
        with self._served.connection(0.25) as wire:
            try:
                wire.sendall(sent)
                while time.monotonic() < until and not self._stop.is_set():
                    try:
                        answer = wire.recv(4_096)
                    except TimeoutError:
                        wire.sendall(b"x")
                        continue
                    how = answer.split(b" ")[1].decode() if b" " in answer else "closed"
                    break
            except OSError:
                how = "closed"
        self._counts[f"{name}: {how}"] += 1


def finished(served: Served) -> dict[str, Any]:
    """End the service, and return what its log and its folders hold."""
    code = served.end()
    return {
        "exit_code": code,
        "events": served.events(),
        "log_leaks": served.leaks(),
        "stray_files": served.stray(),
    }


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "recordings", nargs="*", default=RECORDINGS, help="sound files, below SERVAX_DATA"
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attacks", action="store_true", help="send them to /v1/attack alone")
    parser.add_argument("--only", choices=[*BODIES], help="send bodies of this kind alone")
    parser.add_argument("--out", type=Path, help="JSON record")
    given = parser.parse_args()
    sounds = seeds_of(recordings(given.recordings))
    with Served() as served:
        routes = ATTACKS if given.attacks else ROUTES
        builders = BODIES[given.only] if given.only else ()
        record = attack(
            served, sounds, given.requests, given.seed, routes=routes, builders=builders
        )
        record |= finished(served)
    record |= {
        "routes": list(routes),
        "recordings": list(given.recordings),
        "provenance": dict(provenance(shlex.join(["python", *sys.argv]))),
    }
    text = json.dumps(record, indent=2)
    sys.stdout.write(text + "\n")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
