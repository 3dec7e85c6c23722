from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from servax.defences import Defended
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


class There(nn.Linear):
    """Takes inputs of its own device alone, and answers on the CPU: nothing comes from `meta`."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = super().forward(x)
        return torch.zeros(made.shape)


def test_what_is_placed_gets_its_inputs_there_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compute, "resolve", lambda _: torch.device("meta"))
    placed = Compute().placed(There(3, 2))
    whole = Defended(placed, nn.Identity()).to("cpu").double()
    assert [(each.device.type, each.dtype) for each in whole.parameters()] == [
        ("meta", torch.float32)
    ] * 2
    assert whole(torch.ones(4, 3)).shape == (4, 2)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        Compute().placed(nn.Linear(3, 2))(torch.ones(4, 3))


def test_what_has_no_weights_is_placed_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Identity()
    assert Compute("cpu").placed(model) is model
    monkeypatch.setattr(Compute, "resolve", lambda _: torch.device("cuda"))
    assert Compute().placed(model) is model
    with pytest.raises(SettingError, match=r"^device is 'cuda', expected cpu or auto: the model"):
        Compute("cuda").placed(model)
