from __future__ import annotations

import pytest
import torch

from servax.errors import SettingError
from servax.training import Compute


def test_auto_takes_cuda_when_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert Compute().resolve().type == expected
    assert Compute(device="cpu").resolve() == torch.device("cpu")


@pytest.mark.parametrize("device", ["", "gpu", "cuda:x", "cuda:-1", "mps", "meta", "7"])
def test_refuses_devices_it_does_not_compute_on(device: str) -> None:
    sentence = rf"^device is '{device}', expected auto, cpu, cuda or cuda:N\.$"
    with pytest.raises(SettingError, match=sentence):
        Compute(device=device).resolve()


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99"])
def test_refuses_a_device_that_is_not_there(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    sentence = rf"^device is '{device}', expected a device of this machine \(0 CUDA\)\.$"
    with pytest.raises(SettingError, match=sentence):
        Compute(device=device).resolve()


def test_takes_the_devices_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Compute(device="cuda:1").resolve() == torch.device("cuda:1")
    with pytest.raises(SettingError, match=r"expected a device of this machine \(2 CUDA\)\.$"):
        Compute(device="cuda:2").resolve()


def test_refuses_another_precision() -> None:
    sentence = (
        r"^precision is 'float16', expected one of bfloat16, float32\. Did you mean 'bfloat16'\?$"
    )
    with pytest.raises(SettingError, match=sentence):
        Compute(precision="float16")  # type: ignore[arg-type]


def test_autocast_follows_the_precision() -> None:
    matrix = torch.ones(4, 4)
    with Compute("cpu").autocast():
        assert (matrix @ matrix).dtype == torch.float32
    with Compute("cpu", "bfloat16").autocast():
        assert (matrix @ matrix).dtype == torch.bfloat16
