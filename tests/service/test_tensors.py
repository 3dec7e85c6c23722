"""Samples in and out as the inference protocol of KServe (v2) puts them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from service_running import Running, samples_of, sound


def request(samples: np.ndarray, rate: Any = 16_000, **more: Any) -> bytes:
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(samples.shape),
        "data": samples.ravel().tolist(),
        "parameters": {"sample_rate": rate},
    }
    return json.dumps({"inputs": [tensor | more.pop("tensor", {})], **more}).encode()


def asked(service: Running, model: str, body: bytes) -> Any:
    return service.post(f"/v2/models/{model}/infer", body, Content_Type="application/json")


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_purified_as_those_of_a_file(service: Running, channels: int) -> None:
    body = sound(0.6, 8_000, channels=channels)
    samples, rate = samples_of(body)
    given = samples.T if channels > 1 else samples[:, 0]
    answer = asked(service, "purify", request(given, rate, id="a-1")).json()
    (made,) = answer["outputs"]
    assert (answer["model_name"], answer["id"], made["datatype"]) == ("purify", "a-1", "FP32")
    found = np.reshape(made["data"], made["shape"])
    assert found.shape == (channels, len(samples))
    expected, _ = samples_of(service.post("/v1/purify", body).content)
    np.testing.assert_allclose(np.atleast_2d(found).T, expected, atol=2 * 2.0**-15)


def test_samples_are_classified_as_those_of_a_file(service: Running) -> None:
    body = sound(1.0)
    samples, rate = samples_of(body)
    nested = {"shape": [1, len(samples)], "data": samples.T.tolist()}
    answer = asked(service, "classify", request(samples[:, 0], rate, tensor=nested)).json()
    made = {each["name"]: each["data"] for each in answer["outputs"]}
    told = service.post("/v1/classify", body).json()
    for name, when in (("probabilities", "after"), ("undefended", "before")):
        expected = told[when]["probabilities"]
        assert made["labels"] == list(expected)
        np.testing.assert_allclose(made[name], list(expected.values()), atol=1e-5)
    assert "id" not in answer


def test_it_says_what_it_takes_and_whether_it_can(service: Running) -> None:
    for path in ("health/live", "health/ready", "models/purify/ready", "models/classify/ready"):
        assert service.client.get(f"/v2/{path}").status_code == 200
        assert not [line for line in service.lines() if line.get("route") == f"/v2/{path}"]
    for path in ("models/other", "models/other/ready"):
        assert service.client.get(f"/v2/{path}").status_code == 404
    told = service.client.get("/v2/models/classify").json()
    assert [each["name"] for each in told["outputs"]] == ["labels", "probabilities", "undefended"]


@pytest.mark.parametrize("model", ["purify", "classify"])
def test_answers_have_the_names_types_and_dimensions_told(service: Running, model: str) -> None:
    told = service.client.get(f"/v2/models/{model}").json()
    body = request(np.stack([SAMPLES, -SAMPLES / 2]))
    made = asked(service, model, body).json()["outputs"]
    assert len(told["inputs"][0]["shape"]) == 2
    for name in ("name", "datatype"):
        assert [each[name] for each in made] == [each[name] for each in told["outputs"]]
    for one, said in zip(made, told["outputs"], strict=True):
        assert [-1] * len(one["shape"]) == said["shape"]


SAMPLES = np.zeros(1_600) + 0.1


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("bad_tensor", b"{"),
        ("bad_tensor", b"[" * 100_000),
        ("bad_tensor", b'{"inputs": []}'),
        ("bad_tensor", request(SAMPLES, rate="16000")),
        ("bad_tensor", request(SAMPLES, rate=True)),
        ("bad_tensor", request(SAMPLES, tensor={"datatype": "FP64"})),
        ("bad_tensor", request(SAMPLES, tensor={"shape": [1_601]})),
        ("bad_tensor", request(SAMPLES, tensor={"shape": [1_600, 1]})),
        ("bad_tensor", request(SAMPLES, tensor={"shape": [-1]})),
        ("bad_tensor", request(SAMPLES, tensor={"shape": [-1, -1_600]})),
        ("bad_tensor", request(SAMPLES, tensor={"shape": [True, 1_600]})),
        ("bad_tensor", request(SAMPLES.reshape(1, 1, 1_600))),
        ("bad_tensor", request(SAMPLES.reshape(2, 1, 800))),
        ("bad_tensor", request(SAMPLES, tensor={"data": []})),
        ("bad_tensor", request(SAMPLES, tensor={"data": [0.1] * 1_599 + [True]})),
        ("bad_tensor", request(SAMPLES, tensor={"data": ["1"] * 1_600})),
        ("bad_tensor", request(SAMPLES, tensor={"data": ["1"] * 50_000 + ["1" * 140_000]})),
        ("bad_tensor", request(SAMPLES, tensor={"data": [["1"] * 50_000 + ["1" * 140_000]]})),
        ("bad_tensor", request(SAMPLES, tensor={"data": [[1], [1, 2]]})),
        ("bad_tensor", request(SAMPLES, id="/etc/passwd")),
        ("bad_tensor", request(SAMPLES, id=7)),
        ("bad_rate", request(SAMPLES, rate=10**30)),
        ("not_finite", request(SAMPLES * np.nan)),
        ("not_finite", request(SAMPLES * 1e300)),
        ("too_loud", request(SAMPLES * 1e9)),
        ("too_short", request(SAMPLES[:100])),
        ("too_many_channels", request(SAMPLES.reshape(16, 100))),
    ],
)
def test_what_is_no_sound_is_refused(service: Running, code: str, body: bytes) -> None:
    answer = asked(service, "purify", body)
    assert answer.json()["error"]["code"] == code
    assert answer.status_code in (413, 422)
