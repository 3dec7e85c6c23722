from __future__ import annotations

from pathlib import Path

import pytest

from servax.errors import ServaxError
from servax.report import training_curves_of as curves


def test_groups_terms_by_suffix(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"epoch": 0, "train/loss": 1.5, "validation/loss": 2, "note": "warm-up", "ok": true}\n'
        "\n"
        '{"epoch": 1, "train/loss": NaN, "validation/loss": 1.0, "rate": 0.1}\n'
        '{"epoch": 1, "validation/loss": 1.25}\n'  # resumed: the later line counts
        '{"epoch": 2, "validation/lo',  # killed while it wrote
    )
    assert curves(path) == {
        "loss": {"train": {0: 1.5}, "validation": {0: 2, 1: 1.25}},
        "rate": {"": {1: 0.1}},
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '{"epoch": 0, "train/loss": 1}\nnot json\n{"epoch": 2, "train/loss": 1}\n',
            "line 2 is not a JSON object with an epoch, expected lines such as "
            '{"epoch": 1, "train/loss": 0.4}.',
        ),
        (
            '{"train/loss": 1}\n',
            "line 1 is not a JSON object with an epoch, expected lines such as "
            '{"epoch": 1, "train/loss": 0.4}.',
        ),
        (
            '[1, 2]\n{"epoch": 1}\n',
            "line 1 is not a JSON object with an epoch, expected lines such as "
            '{"epoch": 1, "train/loss": 0.4}.',
        ),
        (
            '{"epoch": 1}\n',
            'no numeric term in it, expected lines such as {"epoch": 1, "train/loss": 0.4}.',
        ),
    ],
)
def test_refuses(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(ServaxError) as caught:
        curves(path)
    assert str(caught.value) == f"{path}: {reason}"


def test_refuses_a_missing_log(tmp_path: Path) -> None:
    with pytest.raises(ServaxError) as caught:
        curves(tmp_path / "no.jsonl")
    assert str(caught.value) == (
        f"{tmp_path / 'no.jsonl'}: no such file, expected a training log (.jsonl)."
    )
