"""What the service answers, against the library called directly."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile
import soxr
import torch
import yaml
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families
from service_running import SETTINGS, Running, samples_of, sound

import servax
from servax.audio.writing import LARGEST_OF_16_BITS as LOUDEST
from servax.defences import Detector
from servax.features import FrontEnd
from servax.purifier.files import purify_file
from servax.purifier.plans import FileJob
from servax.service import Decoded, Metrics, Refusal
from servax.service.app import ROUTES
from servax.service.dispatcher import Place
from servax.service.inference import Models
from servax.service.networks import describe
from servax.service.responses import Classification, Network


def as_16_bits(samples: np.ndarray) -> np.ndarray:
    return np.round(np.clip(samples, -1.0, LOUDEST) * 32768) / 32768


@pytest.mark.parametrize(
    ("rate", "channels", "container"),
    [(16_000, 1, "WAV"), (44_100, 2, "WAV"), (8_000, 1, "FLAC"), (22_050, 1, "OGG")],
)
def test_purified_sound_is_what_the_purifier_gives(
    service: Running, models: Models, rate: int, channels: int, container: str
) -> None:
    body = sound(0.6, rate, channels, container) if container != "OGG" else ogg(0.6, rate)
    given, _ = samples_of(body)
    answer = service.post("/v1/purify", body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    made, made_rate = samples_of(answer.content)
    expected = np.stack([models.purifier.purify(each, rate) for each in given.T], axis=1)
    assert made_rate == rate
    np.testing.assert_allclose(made, as_16_bits(expected), atol=1.5 / 32768, rtol=0)
    assert np.abs(made - given).max() > 0.01


def full(peak: float, subtype: str = "PCM_16", channels: int = 2) -> bytes:
    draws = np.random.default_rng(7).normal(0, 0.8, (16_000, channels))
    file = io.BytesIO()
    soundfile.write(file, peak * np.clip(draws, -1.0, 1.0), 16_000, subtype, format="WAV")
    return file.getvalue()


@pytest.mark.parametrize("container", ["wav", "flac"])
def test_a_full_sound_is_limited_as_on_the_command_line(
    service: Running, models: Models, tmp_path: Path, container: str
) -> None:
    body = full(0.99)
    answer = service.post(f"/v1/purify?format={container}", body)
    made, _ = samples_of(answer.content)
    assert np.abs(made).max() < 32_767 / 32_768
    (tmp_path / "in.wav").write_bytes(body)
    target = tmp_path / f"out.{container}"
    outcome = purify_file(models.purifier, FileJob(str(tmp_path / "in.wav"), str(target)))
    assert answer.content == target.read_bytes()
    assert outcome.limited_samples > 0
    assert int(answer.headers["X-Limited-Samples"]) == outcome.limited_samples
    assert float(answer.headers["X-Limited-Decibels"]) == round(outcome.limited_db, 2)
    quiet = service.post("/v1/purify", sound())
    assert (quiet.headers["X-Limited-Samples"], quiet.headers["X-Limited-Decibels"]) == (
        "0",
        "0.00",
    )


@pytest.mark.parametrize("peak", [1.4, 32_767.0])
def test_what_is_beyond_full_scale_comes_back_as_floats(
    service: Running, models: Models, peak: float
) -> None:
    body = full(peak, "FLOAT")
    given, rate = samples_of(body)
    answer = service.post("/v1/purify", body)
    assert answer.status_code == 200
    assert soundfile.info(io.BytesIO(answer.content)).subtype == "FLOAT"
    expected = np.stack([models.purifier.purify(each, rate) for each in given.T], axis=1)
    np.testing.assert_allclose(samples_of(answer.content)[0], expected, atol=1e-5 * peak)
    refused = service.post("/v1/purify?format=flac", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (406, "not_as_flac")
    assert "FLAC cannot hold sound beyond full scale" in refused.json()["error"]["message"]


def test_sounds_one_behind_another_are_refused(service: Running) -> None:
    answer = service.post("/v1/purify", sound() + sound(0.2))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "joined")


def ogg(seconds: float, rate: int) -> bytes:
    file = io.BytesIO()
    draws = np.random.default_rng(1)
    soundfile.write(file, 0.1 * draws.normal(size=round(seconds * rate)), rate, format="OGG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "audio/flac", "audio/flac"),
        ("", "audio/wav;q=.2, audio/flac;q=.4", "audio/flac"),
        ("", "*/*", "audio/wav"),
        ("?format=flac", "audio/wav", "audio/flac"),
        ("?format=wav", "text/html", "audio/wav"),
    ],
)
def test_wav_or_flac_as_asked(service: Running, query: str, accept: str, kind: str) -> None:
    answer = service.post(f"/v1/purify{query}", sound(), Accept=accept)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert answer.content[:4] == {"audio/wav": b"RIFF", "audio/flac": b"fLaC"}[kind]


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_probabilities_are_those_of_the_networks(
    service: Running, models: Models, rate: int, channels: int
) -> None:
    body = sound(1.0, rate, channels, seed=3)
    mono = samples_of(body)[0].mean(axis=1)
    heard = mono if rate == 16_000 else soxr.resample(mono, rate, 16_000, "HQ")
    recogniser = models.recogniser
    with torch.no_grad():
        front_end = FrontEnd(recogniser.front_end)
        x = recogniser.scale(front_end(torch.from_numpy(heard.astype(np.float32))[None]))
        purified = models.purifier(x)
        before, after = (recogniser.network(each).softmax(1)[0].numpy() for each in (x, purified))
    answer = service.post("/v1/classify", body)
    assert answer.status_code == 200
    told = answer.json()
    for name, expected in (("before", before), ("after", after)):
        found = told[name]["probabilities"]
        assert tuple(found) == recogniser.labels
        np.testing.assert_allclose(list(found.values()), expected, atol=1e-5)
        assert told[name]["label"] == recogniser.labels[expected.argmax()]
    assert told["residual"] == pytest.approx(float(Detector(models.purifier)(x)), rel=1e-4)
    assert (told["seconds"], told["sample_rate"], told["channels"]) == (1.0, rate, channels)


def test_sounds_classified_at_once_get_what_they_get_alone(service: Running) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bodies = [sound(0.5 + 0.1 * i, seed=i) for i in range(6)]
    alone = [service.post("/v1/classify", each).json() for each in bodies]
    with ThreadPoolExecutor(6) as pool:
        at_once = list(pool.map(lambda each: service.post("/v1/classify", each).json(), bodies))
    for one, other in zip(alone, at_once, strict=True):
        assert one["residual"] == pytest.approx(other["residual"], abs=1e-5)
        assert one["after"]["probabilities"] == pytest.approx(
            other["after"]["probabilities"], abs=1e-5
        )


REFUSALS: list[tuple[str, str, Any, dict[str, str], int, str]] = [
    ("GET", "/nowhere", None, {}, 404, "not_found"),
    ("GET", "/docs", None, {}, 404, "not_found"),
    ("GET", "/v1/../../etc/passwd", None, {}, 404, "not_found"),
    ("GET", "/v1/purify", None, {}, 405, "method_not_allowed"),
    ("POST", "/v1/purify?format=mp3", b"x", {}, 422, "bad_parameter"),
    ("POST", "/v1/purify?loud=1", b"x", {}, 422, "bad_parameter"),
    ("POST", "/v1/purify?format=wav&format=flac", b"x", {}, 422, "bad_parameter"),
    ("POST", "/v1/classify?format=wav", b"x", {}, 422, "bad_parameter"),
    ("POST", "/v1/purify", b"x", {"Accept": "text/html"}, 406, "not_acceptable"),
    ("POST", "/v1/purify", b"x", {"Content-Type": "text/plain"}, 415, "not_audio_type"),
    ("POST", "/v1/purify", b"x", {"Content-Type": ""}, 415, "not_audio_type"),
    ("POST", "/v1/purify", b"x", {"Content-Encoding": "gzip"}, 415, "encoded"),
    ("POST", "/v1/purify", b"", {}, 422, "empty"),
    ("POST", "/v1/purify", [b""], {}, 422, "empty"),
    ("POST", "/v1/classify", bytes(SETTINGS.max_bytes + 1), {}, 413, "too_large"),
    ("POST", "/v1/classify", [bytes(SETTINGS.max_bytes), b"x"], {}, 413, "too_large"),
    ("POST", "/v1/classify", b"no sound at all", {}, 415, "not_sound"),
    ("POST", "/v1/classify", sound(5.1), {}, 413, "too_long"),
    ("POST", "/v1/classify", sound(0.1, channels=3), {}, 422, "too_many_channels"),
    ("POST", "/v1/purify", sound(0.01), {}, 422, "too_short"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "code"), REFUSALS)
def test_a_refusal_is_one_sentence_in_one_form(
    service: Running,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    answer = service.client.request(
        method,
        path,
        content=iter(body) if isinstance(body, list) else body,
        headers={"Content-Type": "audio/wav", **headers},
    )
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert re.fullmatch(r"[^\n]{15,300}[.?!]", answer.json()["error"]["message"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_state_of_a_service_that_is_ready(service: Running) -> None:
    for path, word in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = service.client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"status": word, "workers_ready": 1, "workers": 1}
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


def test_probes_may_be_asked_by_head(service: Running) -> None:
    for path in ("/healthz", "/readyz"):
        answer = service.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_service_without_a_place_left_is_not_ready(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.dispatcher, "_places", {Place(0.0) for _ in range(SETTINGS.queue)})
    answer = service.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "busy")
    assert service.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("given", "kept"),
    [("order-17.b", True), ("x" * 65, False), ("a b", False), ("a\\n", False), ("", False)],
)
def test_a_request_keeps_its_id_if_it_may_stand_in_a_log(
    service: Running, given: str, kept: bool
) -> None:
    answer = service.post("/v1/purify", b"", X_Request_ID=given)
    assert (answer.headers["x-request-id"] == given) is kept
    assert service.line("request", answer.headers["x-request-id"])


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(TRACE, True), (TRACE.upper(), False), (TRACE.replace("4b", "\\n"), False),
     (f"00-{'0' * 32}-00f067aa0ba902b7-01", False)],
)  # fmt: skip
def test_the_trace_that_a_request_belongs_to_is_logged(
    service: Running, given: str, kept: bool
) -> None:
    name = service.post("/v1/purify", b"", traceparent=given).headers["x-request-id"]
    line = service.line("request", name)
    assert line.get("traceparent") == (given if kept else None)


def test_silence_is_not_classified_and_what_is_heard_of_a_long_sound_is_told(
    models: Models,
) -> None:
    rate, heard = 8_000, 373 * 256 / 16_000
    noise = np.random.default_rng(0).normal(0, 0.1, (9 * rate, 2)).astype(np.float32)
    inner = noise.copy()
    inner[rate:-rate] = 0.0  # what is heard lies here
    quiet = np.zeros((rate, 1), np.float32)
    sounds = [Decoded(each, rate, "WAV") for each in (quiet, noise, inner, noise[:rate])]
    none, long, hollow, short = models.classify(sounds)
    for each in (none, hollow):
        assert isinstance(each, Refusal)
        assert (each.status, each.code) == (422, "silent")
    assert isinstance(long, Classification)
    assert isinstance(short, Classification)
    assert long.heard_seconds == pytest.approx(heard, abs=1 / rate)
    assert (long.seconds, short.seconds, short.heard_seconds) == (9.0, 1.0, 1.0)


def test_networks_tell_what_they_learned_from_and_their_licence(
    service: Running, tmp_path: Path
) -> None:
    told = service.client.get("/v1/models").json()
    assert told["recogniser"] == {
        "name": "crnn-synthetic",
        "architecture": "CRNN",
        "datasets": ["synthetic"],
        "speakers": 8,
        "licence": "apache-2.0",
    }
    assert told["purifier"]["architecture"] == "UNet"
    assert (told["max_bytes"], told["attack_seconds"]) == (SETTINGS.max_bytes, 5.0)
    (tmp_path / "README.md").write_text("No card.")
    (tmp_path / "settings.json").write_text("[]")
    for where, name in ((str(tmp_path), tmp_path.name), ("user/name", "user/name")):
        assert describe(where) == Network(name, None, None, None, None)


def test_the_page_is_whole_and_asks_nobody_else(service: Running) -> None:
    assert service.client.get("/", follow_redirects=True).url.path == "/page/"
    answer = service.client.get("/page/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    html = answer.text
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=|https?:", html)
    for name in re.findall(r'(?:src|href)="([^"#]+)"', html):
        assert service.client.get(f"/page/{name}").status_code == 200
    for path in ("nothing.js", "../app.py", "%2e%2e/app.py"):
        answer = service.client.get(f"/page/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert service.client.post("/page/").status_code == 405


def families(service: Running) -> dict[str, Any]:
    answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {each.name: each for each in text_string_to_metric_families(answer.text)}


def value(service: Running, family: str, **labels: str) -> float:
    samples = families(service)[family].samples
    kept = [s.value for s in samples if labels == {k: s.labels.get(k) for k in labels}]
    return kept[0] if kept else 0.0


def test_metrics_tell_residuals_memory_and_version(service: Running) -> None:
    def residuals() -> dict[str, float]:
        told = families(service)["servax_residual"].samples
        return {each.name.rpartition("_")[2]: each.value for each in told}

    before = residuals()
    answer = service.post("/v1/classify", sound()).json()
    after = residuals()
    assert after["count"] == before["count"] + 1
    assert after["sum"] - before["sum"] == pytest.approx(answer["residual"])
    (pid,) = service.dispatcher.pids
    held = psutil.Process(pid).memory_info().rss
    assert value(service, "servax_worker_memory_bytes", worker="0") == pytest.approx(held, rel=0.1)
    build = families(service)["servax_build_info"].samples[0]
    assert (build.labels["version"], build.value) == (servax.__version__, 1.0)


@pytest.mark.parametrize("name", ["grafana/servax.json", "prometheus/alerts.yaml"])
def test_what_deploy_asks_prometheus_for_is_exported(name: str) -> None:
    text = (Path(__file__).parents[2] / "deploy" / name).read_text()
    asked = set(re.findall(r"(?:servax|process)_[a-z_]+", json.dumps(yaml.safe_load(text))))
    told = Metrics().page()[0].decode()
    metrics = {each.name: each for each in text_string_to_metric_families(told)}
    kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}
    exported = {name + end for name, each in metrics.items() for end in kinds.get(each.type, ("",))}
    assert len(asked) > 2
    assert asked <= exported


def test_metrics_count_what_was_asked(service: Running) -> None:
    route = {"route": "/v1/purify"}
    before = [
        value(service, "servax_requests", **route, status="200"),
        value(service, "servax_sound_seconds", **route),
        value(service, "servax_refusals", code="not_sound"),
    ]
    service.post("/v1/purify", sound(0.75))
    service.post("/v1/purify", b"nonsense")
    service.client.get(f"/{'secret' * 3}")
    assert value(service, "servax_requests", **route, status="200") == before[0] + 1
    assert value(service, "servax_sound_seconds", **route) == before[1] + 0.75
    assert value(service, "servax_refusals", code="not_sound") == before[2] + 1
    found = families(service)
    assert {
        "servax_request_seconds",
        "servax_queue_length",
        "servax_in_flight",
        "servax_batch_size",
        "servax_worker_restarts",
        "servax_workers_ready",
        "process_resident_memory_bytes",
    } <= set(found)
    routes = {s.labels["route"] for s in found["servax_requests"].samples if "route" in s.labels}
    assert routes <= {
        *ROUTES, "other",
    }  # fmt: skip


def test_openapi_is_valid_and_complete(service: Running) -> None:
    document = service.client.get("/openapi.json").json()
    OpenAPI.model_validate(document)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    # Second names of the probes, and a WebSocket, for which OpenAPI has no words.
    untold = {"/openapi.json", "/v1/stream", "/v2/health/live", "/v2/health/ready"}
    untold |= {f"/v2/models/{model}/ready" for model in ("classify", "purify")}
    told = (set(ROUTES) - untold) | {"/v2/models/classify", "/v2/models/purify"}
    assert set(document["paths"]) == told
    for path in ("/v1/purify", "/v1/classify", "/v1/attack"):
        told = document["paths"][path]["post"]
        several = {"application/json", "multipart/form-data"} if path == "/v1/purify" else set()
        kinds = {"audio/*", "application/octet-stream"}
        assert set(told["requestBody"]["content"]) == kinds | several
        assert {"200", "401", "408", "413", "415", "422", "429", "500", "503", "504"} <= set(
            told["responses"]
        )
        assert told["responses"]["422"]["content"]["application/json"]["schema"] == {
            "$ref": "#/components/schemas/ErrorAnswer"
        }
    assert set(document["paths"]["/v1/purify"]["post"]["responses"]["200"]["content"]) == {
        "audio/wav", "audio/flac", "application/json",
    }  # fmt: skip
    residual = document["components"]["schemas"]["Classification"]["properties"]["residual"]
    assert "attack" in residual["description"]


def test_logs_are_json_and_hold_nothing_of_the_sound(service: Running) -> None:
    answer = service.client.post(
        "/v1/classify?",
        content=sound(),
        headers={
            "Content-Type": 'audio/wav; name="private.wav"',
            "Authorization": "Bearer confidential-token",
            "X-Request-ID": "injected\\nline",
        },
    )
    assert answer.status_code == 200
    service.client.get("/v1/private/path?private=1")
    line = service.line("request", answer.headers["x-request-id"])
    assert set(line) == {
        "request", "method", "route", "status", "ms", "queued_ms", "bytes", "sound_seconds",
        "rate", "channels", "container", "event", "level", "time",
    }  # fmt: skip
    assert (line["status"], line["rate"], line["sound_seconds"]) == (200, 16_000, 0.6)
    for secret in ("private", "confidential", "injected", "RIFF"):
        assert secret not in service.log.getvalue()


def test_a_client_without_keep_alive_reads_a_refusal_before_its_body_ends(
    service: Running,
) -> None:
    with httpx.Client(base_url=service.url) as client:
        answer = client.post(
            "/v1/purify",
            content=bytes(4_000_000),
            headers={"Content-Type": "audio/wav"},
        )
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
