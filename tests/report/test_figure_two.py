"""Figure 2 and its CSV: values, bands, averages, and the paper's averages beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from servax.report import Measures, collect, protection_curves, uar_curves
from servax.report.run import pictures
from servax.report.run_tables import worth_table

Check = Callable[[Figure], None]


def shares(frame: pd.DataFrame, defence: str, k: int) -> tuple[float, float]:
    """Return PE and RR by joining the rows, as equations 12 and 13 say it."""

    def rows(name: str, attack: str, strength: float) -> pd.DataFrame:
        kept = (
            (frame["defence"] == name)
            & (frame["attack"] == attack)
            & (frame["strength"] == strength)
            & frame["knowledge"].isin(["none", "oblivious"])
        )
        part = frame[kept].set_index(["fold", "utterance"])
        return (part["label"] == part["prediction"]).rename(f"{name} {attack}")

    clean, bare = rows("undefended", "none", 0), rows("undefended", "pgd", k)
    table = pd.concat([clean.rename("clean"), bare.rename("bare")], axis=1)
    table["kept"] = rows(defence, "pgd", k)
    right, wrong = table[table["clean"]], table[~table["clean"]]
    risk = 1 - right["bare"].mean()
    return (risk - (1 - right["kept"].mean())) / risk, wrong["kept"].mean()


def test_values_are_the_equations_on_the_rows(everyone: pd.DataFrame) -> None:
    told = Measures(collect(everyone)).protection
    assert len(told) == 18 * 30 * 2
    for defence, k in (("ssad", 1), ("pgd-at", 15), ("adversarial-similarity-0.006", 30)):
        part = told[(told["defence"] == defence) & (told["k"] == k)].set_index("measure")
        efficacy, recovery = shares(everyone, defence, k)
        assert part.loc["PE", "value"] == pytest.approx(efficacy)
        assert part.loc["RR", "value"] == pytest.approx(recovery)
        folds = [shares(everyone[everyone["fold"] == f], defence, k) for f in (0, 1)]
        for i, measure in enumerate(("PE", "RR")):
            values = [fold[i] for fold in folds]
            assert part.loc[measure, "mean_over_folds"] == pytest.approx(np.mean(values))
            assert part.loc[measure, "sd_over_folds"] == pytest.approx(np.std(values))


def test_bands_are_the_bootstrap_done_by_hand(everyone: pd.DataFrame) -> None:
    told = Measures(collect(everyone)).protection
    line = told[(told["defence"] == "trades") & (told["k"] == 6)].set_index("measure")
    speakers = sorted(set(everyone["speaker"]))
    short = everyone[
        everyone["defence"].isin(["undefended", "trades"])
        & ((everyone["attack"] == "none") | (everyone["strength"] == 6))
    ]
    values = []
    for draw in np.random.default_rng(0).integers(0, len(speakers), (1000, len(speakers)))[:60]:
        drawn = [
            short[short["speaker"] == speakers[i]].assign(
                utterance=lambda part, n=n: part["utterance"] + f"#{n}"
            )
            for n, i in enumerate(draw)
        ]
        values.append(shares(pd.concat(drawn), "trades", 6))
    # The first 60 of the 1000 draws lie where the interval of all of them says.
    for i, measure in enumerate(("PE", "RR")):
        inside = np.mean(
            [line.loc[measure, "low"] <= v[i] <= line.loc[measure, "high"] for v in values]
        )
        assert inside >= 0.85


def test_many_defences_stay_readable(everyone: pd.DataFrame, check: Check) -> None:
    outcomes = Measures(collect(everyone))
    figure = protection_curves(outcomes)
    check(figure)
    points, told = outcomes.protection, outcomes.worth.set_index("defence")
    for axes, measure, dash in zip(figure.axes, ("PE", "RR"), ("-", "--"), strict=True):
        curves = [line for line in axes.lines if len(line.get_xdata()) == 30]
        assert len(curves) == 5  # SSAD twice, the best Adv., PGD training, TRADES
        assert len({line.get_color() for line in curves}) == 5
        ssad = next(line for line in curves if str(line.get_label()).startswith("ssad:"))
        expected = points[(points["defence"] == "ssad") & (points["measure"] == measure)]
        np.testing.assert_allclose(ssad.get_ydata(), expected["value"])
        assert ssad.get_linestyle() == dash
        mean, sd = (told.loc["ssad", f"{measure} {name}"] for name in ("mean", "sd"))
        assert ssad.get_label() == f"ssad: {mean:.3f} ± {sd:.3f}".replace("0.", ".").replace(
            "-", "−"
        )
        words = " ".join(str(text.get_text()) for text in axes.get_legend().get_texts())
        assert ("SSAD: .440 ± .083" in words) == (measure == "PE")
        assert ("Adv.: .150 ± .054" in words) == (measure == "RR")
        assert len(axes.collections) >= 5  # the bands
    check(uar_curves(outcomes))


def test_few_defences_are_all_drawn(small: pd.DataFrame, check: Check) -> None:
    figure = protection_curves(Measures(collect(small)))
    check(figure)
    assert sum(len(line.get_xdata()) == 30 for line in figure.axes[0].lines) == 6
    check(protection_curves(Measures(collect(small.assign(speaker="s0")))))  # no bands


def test_confusions_show_ssad_and_the_best_trained_model(everyone: pd.DataFrame) -> None:
    shown = {picture.name: picture for picture in pictures(Measures(collect(everyone)), None, {})}
    caption = shown["confusion"].caption
    assert "below with ssad, then adversarial-similarity-" in caption
    assert "Of many defences it shows" in shown["uar"].caption


def test_summary_has_the_papers_averages(everyone: pd.DataFrame) -> None:
    table = worth_table(Measures(collect(everyone)))
    assert table is not None
    names = [line[0].text for line in table.rows]
    theirs = table.rows[names.index("ssad") + 1]
    assert [cell.text for cell in theirs] == [
        "paper, IEMOCAP",
        "0.440 ± 0.083",
        "–",
        "0.190 ± 0.032",
        "–",
        "–",
    ]
    assert [cell.published for cell in theirs] == [True, True, False, True, False, False]
    assert names.count("paper, IEMOCAP") == 2
