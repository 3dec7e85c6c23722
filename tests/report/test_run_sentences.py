from __future__ import annotations

import pandas as pd
import pytest
from as_grid import as_grid

from servax.report import Measures, collect
from servax.report.run import header, verdict
from servax.report.tables import number


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_first_sentence_says_what_the_adaptive_attacker_leaves(small: pd.DataFrame) -> None:
    outcomes = Measures(collect(small))
    table = as_grid(small).round(1)
    left, clean = table["adaptive PGD-30"], table["clean"]
    first = plain(verdict(outcomes)[0])
    assert first == (
        "An attacker who knows the defence and takes gradients through it (PGD-30) leaves ssad a "
        f"UAR of {left['ssad']} % (of {clean['ssad']} % on clean input) and ssad-residual a UAR of "
        f"{left['ssad-residual']} % (of {clean['ssad-residual']} % on clean input); chance is "
        "25.0 %."
    )


def test_names_the_best_control(small: pd.DataFrame) -> None:
    outcomes = Measures(collect(small))
    table = as_grid(small)
    controls = table.drop(index=["undefended", "ssad", "ssad-residual"])
    best = controls[["FGSM mean", "PGD mean"]].sum(axis=1).idxmax()
    said = plain(verdict(outcomes)[2])
    assert said.startswith(
        f"The best other defence, {best}, keeps {table.loc[best, 'FGSM mean']:.1f} %"
    )


def test_says_what_share_ssad_keeps_here_and_in_the_paper(small: pd.DataFrame) -> None:
    outcomes = Measures(collect(small))
    table = as_grid(small)
    clean = table.loc["undefended", "clean"]
    fgsm, pgd = (100 * table.loc["ssad", f"{a} mean"] / clean for a in ("FGSM", "PGD"))
    assert plain(verdict(outcomes)[-1]) == (
        f"Of the undefended target's clean UAR, ssad keeps on average {fgsm:.1f} % under FGSM (in "
        f"the paper, on IEMOCAP, 85.2 %) and {pgd:.1f} % under PGD (in the paper, on IEMOCAP, "
        "68.5 %)."
    )
    without = verdict(Measures(collect(small[~small["defence"].str.startswith("ssad")])))
    assert "paper, on IEMOCAP" not in " ".join(without)


def test_says_when_there_is_nothing_to_say(small: pd.DataFrame) -> None:
    bare = small[small["defence"] == "undefended"]
    first = verdict(Measures(collect(bare)))[0]
    assert first.startswith("No defence was attacked adaptively, so this report says nothing about")
    clean = verdict(Measures(collect(small[small["attack"] == "none"])))
    assert len(clean) == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.126, "0.13"), (-0.126, "−0.13"), (-0.001, "0.00"), (float("nan"), "–")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_header_says_what_was_not_recorded_and_prints_all_else(small: pd.DataFrame) -> None:
    provenance = {"machine": "a", "ray": {"nodes": [1, 2]}}
    rows = dict(header(Measures(collect(small, provenance))))
    assert rows["command"] == "not recorded"
    assert rows["fold hash"] == "not recorded"
    assert rows["machine"] == "a"
    assert rows["ray"] == "nodes 1; 2"
    assert rows["seeds"] == "0"
    assert rows["corpus"].startswith("made-up: 48 utterances of 6 held-out speakers")
