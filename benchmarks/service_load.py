"""Load on ``servax serve``: latency, requests per second and memory, also while workers are killed.

Starts a service of its own on loopback, lets clients send recordings of RAVDESS at once, each the
next as soon as it has its answer, and checks every answer: a purified sound must be WAV of the
length and rate that was sent, probabilities must sum to 1. Who gets 429 waits as Retry-After says
and sends again. The clients share the processors with the service. With ``--kill-every`` a worker
drawn at random gets SIGKILL again and again; every request must still get an answer. With
``--stalled`` and ``--idle`` others hold connections meanwhile: some send the start of a body and no
more, some send nothing; who is shut out comes again a second later, and /healthz is asked.

    python benchmarks/service_load.py --requests 5000 --clients 64
    python benchmarks/service_load.py --requests 5000 --clients 64 --kill-every 5 --name killed
    python benchmarks/service_load.py --requests 5000 --stalled 64 --idle 1050 --name beside

Writes ``benchmarks/results/service_<name>.json``; ``--page`` writes the table of all of them into
``benchmarks/service.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
import soundfile
from prometheus_client.parser import text_string_to_metric_families

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent / "service.md"
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end -->)", re.DOTALL)
WARM_SHARE = 0.2
"""Share of the requests after which memory counts as warm."""
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Clip:
    """A recording as it is sent."""

    body: bytes
    frames: int
    rate: int


@dataclass
class Told:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    """Of all answers, those of 429 that were sent again too; `none` is no answer at all."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"purify": [], "classify": []})
    """From the first byte sent to the last received, of each answer 200."""
    whole_seconds: list[float] = field(default_factory=list)
    """From a client's first try to its answer, waits after 429 included."""
    wrong: int = 0
    """Answers 200 whose content is not what it must be."""
    finals: Counter[str] = field(default_factory=Counter)
    """What each request ended with."""
    residuals: list[float] = field(default_factory=list)
    """Of each sound that was classified."""
    probes: list[float] = field(default_factory=list)
    """Seconds to each answer of /healthz; infinite where none came."""
    shut_out: Counter[str] = field(default_factory=Counter)
    """How often somebody's connection was closed who only held it."""


def clips(folder: Path, count: int, seed: int) -> list[Clip]:
    """Return recordings drawn at random."""
    files = sorted(folder.rglob("*.wav"))
    if len(files) < count:
        sys.exit(f"{folder} holds {len(files)} recordings, expected at least {count}")
    chosen = np.random.default_rng(seed).choice(len(files), count, replace=False)
    found = []
    for each in sorted(chosen):
        body = files[each].read_bytes()
        info = soundfile.info(io.BytesIO(body))
        found.append(Clip(body, info.frames, info.samplerate))
    return found


@contextmanager
def served(options: list[str]) -> Iterator[tuple[str, psutil.Process, Path]]:
    """Yield the URL, the process and the log of a service that is ready."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "servax", "serve", "--port", "0", *options]
        with log.open("w") as errors:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                sys.exit(log.read_text())
            until = time.monotonic() + 300
            while httpx.get(f"{url}/readyz").status_code != 200:
                if time.monotonic() > until:
                    sys.exit("the service was not ready within 300 s")
                time.sleep(0.2)
            yield url, psutil.Process(server.pid), log
        finally:
            server.terminate()
            server.wait(60)


async def client(
    web: httpx.AsyncClient, orders: Iterator[tuple[str, Clip]], told: Told, until: float
) -> None:
    """Send one request after another until there are no more."""
    for kind, clip in orders:
        begun = time.monotonic()
        while True:
            sent = time.monotonic()
            try:
                answer = await web.post(f"/v1/{kind}", content=clip.body)
            except httpx.HTTPError as error:
                status = f"none ({type(error).__name__})"
                told.statuses[status] += 1
                break
            status = str(answer.status_code)
            told.statuses[status] += 1
            if status != "429" or time.monotonic() > until:
                break
            await asyncio.sleep(int(answer.headers["Retry-After"]) + random.random() / 4)
        told.finals[status] += 1
        if status == "200":
            now = time.monotonic()
            told.seconds[kind].append(now - sent)
            told.whole_seconds.append(now - begun)
            told.wrong += not right(kind, clip, answer)
            if kind == "classify":
                told.residuals.append(answer.json()["residual"])
        if time.monotonic() > until:
            return


def right(kind: str, clip: Clip, answer: httpx.Response) -> bool:
    """Say whether an answer is what it must be."""
    if kind == "purify":
        info = soundfile.info(io.BytesIO(answer.content))
        return (info.format, info.frames, info.samplerate) == ("WAV", clip.frames, clip.rate)
    found = answer.json()
    sums = [sum(found[name]["probabilities"].values()) for name in ("before", "after")]
    return all(abs(each - 1) < 1e-4 for each in sums) and found["residual"] > 0


def workers_of(server: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes of a server."""
    found = []
    for child in server.children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


async def watch(server: psutil.Process, told: Told, memory: list[dict[str, Any]]) -> None:
    """Note the resident memory of the server and its workers every second."""
    while True:
        workers = []
        for each in workers_of(server):
            try:
                workers.append(round(each.memory_info().rss / MEBIBYTE, 1))
            except psutil.Error:
                continue
        row = {"answered": sum(told.finals.values()), "workers": sorted(workers)}
        memory.append({**row, "server": round(server.memory_info().rss / MEBIBYTE, 1)})
        await asyncio.sleep(1.0)


async def kill(server: psutil.Process, every: float, kills: list[int]) -> None:
    """Kill a worker at random again and again."""
    while True:
        await asyncio.sleep(every)
        workers = workers_of(server)
        if workers:
            victim = random.choice(workers)
            victim.kill()
            kills.append(victim.pid)


async def hold(url: str, kind: str, told: Told) -> None:
    """Hold a connection on which little is sent, and open another when it is closed."""
    address = urlsplit(url)
    start = b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\n"
    while True:
        try:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            if kind == "stalled":
                writer.write(start + b"Content-Length: 1000\r\n\r\nRIFF")
            await reader.read(1)  # nothing comes but an end, or a refusal
            writer.close()
        except OSError:
            pass
        told.shut_out[kind] += 1
        await asyncio.sleep(1.0)


async def probe(url: str, told: Told) -> None:
    """Ask /healthz every second, each time over a connection of its own."""
    while True:
        begun = time.monotonic()
        try:
            async with httpx.AsyncClient(timeout=10.0) as web:
                found = (await web.get(f"{url}/healthz")).status_code == 200
        except httpx.HTTPError:
            found = False
        told.probes.append(time.monotonic() - begun if found else float("inf"))
        await asyncio.sleep(1.0)


async def load(
    url: str, server: psutil.Process, material: list[Clip], options: argparse.Namespace
) -> dict[str, Any]:
    """Return what came of all requests."""
    draws = np.random.default_rng(options.seed)
    orders = iter(
        [
            (
                "purify" if draws.random() < options.purify_share else "classify",
                material[int(draws.integers(len(material)))],
            )
            for _ in range(options.requests)
        ]
    )
    told, memory, kills = Told(), list[dict[str, Any]](), list[int]()
    limits = httpx.Limits(max_connections=options.clients)
    headers = {"Content-Type": "audio/wav"}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=120.0
    ) as web:
        beside = [asyncio.create_task(watch(server, told, memory))]
        if options.kill_every:
            beside.append(asyncio.create_task(kill(server, options.kill_every, kills)))
        if options.stalled or options.idle:
            kinds = ["stalled"] * options.stalled + ["idle"] * options.idle
            beside += [asyncio.create_task(hold(url, kind, told)) for kind in kinds]
            beside.append(asyncio.create_task(probe(url, told)))
            await asyncio.sleep(2.0)
        begun = time.monotonic()
        until = begun + options.longest
        await asyncio.gather(*(client(web, orders, told, until) for _ in range(options.clients)))
        seconds = time.monotonic() - begun
        for each in beside:
            each.cancel()
    async with httpx.AsyncClient(base_url=url) as web:  # no connection that others made end
        numbers = (await web.get("/metrics")).text
    return {
        "seconds": round(seconds, 2),
        "requests_per_second": round(told.finals["200"] / seconds, 1),
        "ended_with": dict(told.finals),
        "all_answers": dict(told.statuses),
        "wrong_answers": told.wrong,
        "latency_ms": {name: spread(values) for name, values in told.seconds.items()},
        "latency_ms_with_waits": spread(told.whole_seconds),
        "residual": quantiles(told.residuals),
        "healthz": {
            "asked": len(told.probes),
            "unanswered": told.probes.count(float("inf")),
            "ms": spread([each for each in told.probes if each < float("inf")]),
        },
        "connections_closed": dict(told.shut_out),
        "kills": len(kills),
        "service": counted(numbers),
        "memory_mib": grown(memory, options.requests),
        "memory_series": memory,
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the percentiles of times, in milliseconds."""
    if not seconds:
        return {}
    found = np.percentile(np.array(seconds) * 1000, [50, 95, 99, 100])
    return dict(zip(("p50", "p95", "p99", "max"), found.round(1).tolist(), strict=True))


def quantiles(values: list[float]) -> dict[str, float]:
    """Return the least, the median and the largest of some values."""
    if not values:
        return {}
    found = np.percentile(np.array(values), [0, 50, 100]).round(4).tolist()
    return dict(zip(("least", "median", "largest"), found, strict=True))


def counted(text: str) -> dict[str, float]:
    """Return what the service says of itself."""
    found = {each.name: each for each in text_string_to_metric_families(text)}
    batches = {each.name: each.value for each in found["servax_batch_size"].samples}
    count = batches["servax_batch_size_count"]
    return {
        "worker_restarts": found["servax_worker_restarts"].samples[0].value,
        "batches": count,
        "mean_batch": round(batches["servax_batch_size_sum"] / max(1.0, count), 2),
    }


def grown(memory: list[dict[str, Any]], requests: int) -> dict[str, Any]:
    """Return resident memory when warm, at most, and at the end, in MiB."""
    warm = [each for each in memory if each["answered"] >= WARM_SHARE * requests]
    if not warm:
        return {}
    largest = [max(each["workers"], default=0.0) for each in warm]
    third = max(1, len(warm) // 3)
    return {
        "server_warm": round(float(np.mean([each["server"] for each in warm[:third]])), 1),
        "server_end": round(float(np.mean([each["server"] for each in warm[-third:]])), 1),
        "server_most": max(each["server"] for each in warm),
        "largest_worker_warm": round(float(np.mean(largest[:third])), 1),
        "largest_worker_end": round(float(np.mean(largest[-third:])), 1),
        "largest_worker_most": max(largest),
    }


def report(found: dict[str, Any]) -> str:
    """Return one row of the table."""
    latency = found["latency_ms"]
    both = [
        f"{latency[kind].get('p50', 0):.0f} / {latency[kind].get('p95', 0):.0f}"
        for kind in ("purify", "classify")
    ]
    memory = found["memory_mib"]
    held = {kind: found.get(kind, 0) for kind in ("stalled", "idle")}
    beside = "".join(f" + {count} {kind}" for kind, count in held.items() if count)
    others = {k: v for k, v in found["ended_with"].items() if k != "200"}
    cells = [
        found["name"],
        f"{found['clients']}{beside} / {found['queue']} / {found['batch']}",
        f"{found['ended_with'].get('200', 0)} of {found['requests']}",
        ", ".join(f"{v} × {k}" for k, v in sorted(others.items())) or "none",
        str(found["all_answers"].get("429", 0)),
        f"{found['requests_per_second']:.1f}",
        *both,
        f"{memory['server_warm']:.0f} → {memory['server_end']:.0f}",
        f"{memory['largest_worker_warm']:.0f} → {memory['largest_worker_end']:.0f}",
        f"{found['kills']} / {found['service']['worker_restarts']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def write_page() -> None:
    """Write the table of all kept results into the page."""
    head = (
        "| run | clients / queue / batch | answered 200 | ended otherwise | 429, sent again | "
        "requests/s | purify p50 / p95, ms | classify p50 / p95, ms | server, MiB | "
        "largest worker, MiB | kills / restarts |"
    )
    rule = "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|"
    kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("service_*.json"))]
    text = "\n".join([head, rule, *(report(each) for each in kept)])
    page = PAGE.read_text()
    PAGE.write_text(TABLE.sub(lambda _: f"\n{text}\n\n", page))


def main() -> None:
    """Run one load, print it and keep it."""
    options = arguments()
    if options.page:
        write_page()
        return
    from servax.experiments.provenance import provenance

    random.seed(options.seed)
    folder = Path(os.environ.get("SERVAX_DATA", ".")) / options.corpus
    material = clips(folder, options.clips, options.seed)
    served_with = ["--queue", str(options.queue), "--batch", str(options.batch)]
    if options.workers:
        served_with += ["--workers", str(options.workers)]
    with served(served_with) as (url, server, log):
        found = asyncio.run(load(url, server, material, options))
        told = Counter(json.loads(line)["event"] for line in log.read_text().splitlines())
    origin = dict(provenance(" ".join(["python", *sys.argv])))
    settings = ("name", "requests", "clients", "stalled", "idle", "queue", "batch")
    settings += ("kill_every", "corpus", "clips", "seed")
    found = {
        **origin,
        **{name: getattr(options, name) for name in settings},
        "purify_share": options.purify_share,
        "cpus": len(os.sched_getaffinity(0)),
        "logged": dict(told),
        **found,
    }
    RESULTS.mkdir(exist_ok=True)
    out = Path(options.out or RESULTS / f"service_{options.name}.json")
    out.write_text(json.dumps(found, indent=1) + "\n")
    shown = {key: value for key, value in found.items() if key != "memory_series"}
    print(json.dumps(shown, indent=2))


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    add = parser.add_argument
    add("--requests", type=int, default=5000, help="requests in all (%(default)s)")
    add("--clients", type=int, default=64, help="clients at once (%(default)s)")
    add("--queue", type=int, default=64, help="--queue of the service (%(default)s)")
    add("--batch", type=int, default=4, help="--batch of the service (%(default)s)")
    add("--workers", type=int, help="--workers of the service (one for each CPU)")
    add("--purify-share", type=float, default=0.5, help="the rest is classified (%(default)s)")
    add("--kill-every", type=float, default=0.0, help="seconds between two kills (0: none)")
    add("--longest", type=float, default=900.0, help="seconds; then no more are sent (%(default)s)")
    add("--stalled", type=int, default=0, help="others that send the start of a body (%(default)s)")
    add("--idle", type=int, default=0, help="others that send nothing (%(default)s)")
    add("--corpus", default="ravdess", help="folder below SERVAX_DATA (%(default)s)")
    add("--clips", type=int, default=400, help="recordings sent in turn (%(default)s)")
    add("--seed", type=int, default=0, help="draws recordings, routes and victims (%(default)s)")
    add("--name", default="load", help="of the run, in the table (%(default)s)")
    add("--out", help="JSON file (benchmarks/results/service_<name>.json)")
    add("--page", action="store_true", help="write the table of kept results; send nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
