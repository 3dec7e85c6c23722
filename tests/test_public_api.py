"""The public names are a contract; importing servax and asking for help must stay cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

import servax as sx


def test_names_of_the_contract_exist() -> None:
    assert sx.LogMel.speech_16k().settings.mels == 64
    assert sx.models.VGG16(classes=4, width=4).settings.classes == 4
    assert sx.attacks.PGD(step=0.003, epsilon=0.02, steps=15).steps == 15
    assert sx.attacks.FGSM(epsilon=0.003).epsilon == 0.003
    assert callable(sx.Purifier.from_pretrained)
    assert callable(sx.corpora.load)
    assert callable(sx.metrics.uar)
    assert callable(sx.metrics.protection_efficacy)
    assert callable(sx.metrics.recovery_rate)
    assert {sx.Defended.__name__, sx.Scale.__name__} == {"Defended", "Scale"}


def test_every_listed_name_can_be_loaded() -> None:
    for name in sx.__all__:
        assert getattr(sx, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'servax' has no attribute 'Purifer'"):
        sx.Purifer  # noqa: B018


@pytest.mark.parametrize("command", ["", "run", "train", "corpus", "attack", "purify", "export"])
def test_help_does_not_load_torch(command: str) -> None:
    arguments = [*command.split(), "--help"]
    code = (
        "import sys\nfrom servax.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: servax" in done.stdout
