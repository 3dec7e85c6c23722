from __future__ import annotations

import random

import pandas as pd
import pytest

from servax.report import Measures, collect
from servax.report.predictions import family, in_order


def test_order_is_that_of_the_paper(everyone: pd.DataFrame) -> None:
    expected = list(dict.fromkeys(everyone["defence"]))
    shuffled = random.Random(0).sample(expected, len(expected))
    assert list(in_order(shuffled)) == expected
    assert list(in_order([*shuffled, *shuffled])) == expected


def test_epsilons_are_ordered_as_numbers() -> None:
    names = [f"adversarial-vanilla-{e}" for e in ("0.1", "2e-05", "0.03", "nan-like", "1e")]
    assert in_order(names)[:3] == tuple(
        f"adversarial-vanilla-{e}" for e in ("2e-05", "0.03", "0.1")
    )


@pytest.mark.parametrize(
    ("defence", "expected"),
    [
        ("adversarial-similarity-0.003", "similarity"),
        ("adversarial-vanilla-2e-05", "vanilla"),
        ("pgd-at", "pgd-at"),
        ("trades", "trades"),
        ("ssad", "ssad"),
        ("ssad-steps-3", "ssad"),
        ("ssadness", "control"),
        ("adversarial-other-0.003", "control"),
        ("mean-filter", "control"),
        ("control", "control"),
        ("similarity", "control"),
        ("undefended", "undefended"),
    ],
)
def test_families(defence: str, expected: str) -> None:
    assert family(defence) == expected


def test_pictures_show_the_best_of_each_kind(everyone: pd.DataFrame) -> None:
    pgd = (everyone["attack"] == "pgd") & (everyone["knowledge"] == "oblivious")
    best = everyone["defence"].isin(
        ["adversarial-similarity-0.009", "adversarial-vanilla-0.012", "quantise-4"]
    )
    frame = everyone.assign(prediction=everyone["prediction"].mask(pgd & best, everyone["label"]))
    run = Measures(collect(frame))
    assert run.drawn_uar == (
        "adversarial-similarity-0.009",
        "adversarial-vanilla-0.012",
        "pgd-at",
        "trades",
        "ssad",
        "ssad-residual",
        "quantise-4",
        "undefended",
    )
    assert run.drawn_protection == (
        "adversarial-similarity-0.009",
        "pgd-at",
        "trades",
        "ssad",
        "ssad-residual",
    )
    assert [name for name, _ in run.published.values()] == ["SSAD", "Adv."]
    assert run.best_of("vanilla", "control") in (
        "adversarial-vanilla-0.012",
        "quantise-4",
    )


def test_few_defences_are_all_shown(small: pd.DataFrame) -> None:
    run = Measures(collect(small))
    assert run.drawn_uar == run.defences
    assert run.drawn_protection == run.defences[:-1]
    assert list(run.published) == ["ssad"]
    assert run.best_of("similarity") is None


def test_what_was_not_measured_is_not_the_best(small: pd.DataFrame) -> None:
    gap = (
        (small["defence"] == "mean-filter") & (small["attack"] == "pgd") & (small["strength"] == 3)
    )
    found = Measures(collect(small[~gap])).best_of("control")
    assert found in ("gaussian-noise", "quantise-4", "quantise-8")
