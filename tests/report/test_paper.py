"""The paper's numbers, as the paper's own averages, σ and bold type check them."""

from __future__ import annotations

import statistics

import pytest

from servax.report import paper

# UAR means and σ that the text of section 3.3.1 prints.
PRINTED = [
    ("ssad", "fgsm", 43.53, 1.86),
    ("ssad", "pgd", 34.99, 2.14),
    ("adversarial-similarity-0.012", "pgd", 30.08, 2.68),
]

# Means of the rows, added up by hand.
MEANS = {
    "adversarial-similarity-0.003": (213.29 / 5, 121.08 / 5),
    "adversarial-similarity-0.006": (190.82 / 5, 129.85 / 5),
    "adversarial-similarity-0.009": (193.30 / 5, 124.51 / 5),
    "adversarial-similarity-0.012": (208.14 / 5, 150.39 / 5),
    "adversarial-similarity-0.015": (201.48 / 5, 149.65 / 5),
    "ssad": (217.64 / 5, 174.95 / 5),
}


def test_rows_are_complete_and_their_means_are_theirs() -> None:
    assert set(paper.TABLE_1) == set(MEANS)
    for name, row in paper.TABLE_1.items():
        assert len(row.fgsm) == len(paper.EPSILONS) == len(row.pgd) == len(paper.STEPS)
        assert (row.over("fgsm").mean, row.over("pgd").mean) == pytest.approx(MEANS[name])


@pytest.mark.parametrize(("name", "attack", "mean", "sigma"), PRINTED)
def test_printed_sigmas_are_population_sds(
    name: str, attack: str, mean: float, sigma: float
) -> None:
    row = paper.TABLE_1[name]
    values = row.fgsm if attack == "fgsm" else row.pgd
    assert row.over(attack).mean == pytest.approx(mean, abs=0.005)
    assert row.over(attack).sd == pytest.approx(statistics.pstdev(values))
    assert row.over(attack).sd == pytest.approx(sigma, abs=0.006)
    assert abs(statistics.stdev(values) - sigma) > 0.1


def test_the_sigma_of_the_best_adv_under_fgsm_follows_from_no_row() -> None:
    for row in paper.TABLE_1.values():
        for values in (row.fgsm, row.pgd):
            assert abs(statistics.pstdev(values) - 4.71) > 0.05
            assert abs(statistics.stdev(values) - 4.71) > 0.05


def test_best_of_each_column_is_what_the_paper_prints_bold() -> None:
    best = []
    for attack, grid in (("fgsm", paper.EPSILONS), ("pgd", paper.STEPS)):
        for strength in grid:
            column = {name: row.at(attack, strength) for name, row in paper.TABLE_1.items()}
            best.append(max(column, key=lambda name: column[name]))
    assert best == ["adversarial-similarity-0.003"] * 2 + ["ssad"] * 8


def test_shares_of_the_clean_uar() -> None:
    ssad = paper.TABLE_1["ssad"]
    assert ssad.over("fgsm").mean / paper.CLEAN_UAR == pytest.approx(0.85, abs=0.005)
    assert ssad.over("pgd").mean / paper.CLEAN_UAR == pytest.approx(0.69, abs=0.005)


def test_nothing_is_told_off_the_grid() -> None:
    row = paper.TABLE_1["ssad"]
    assert row.at("pgd", 9.0) == 33.21
    assert row.at("fgsm", 3e-3 + 1e-12) == 45.94
    for attack, strength in (("pgd", 30), ("fgsm", 0.004), ("none", 0.0)):
        assert row.at(attack, strength) != row.at(attack, strength)


def test_averages_of_figure_2() -> None:
    ours, theirs = paper.FIGURE_2["ssad"], paper.FIGURE_2["adversarial-similarity"]
    assert (ours.efficacy.mean, ours.efficacy.sd) == (0.440, 0.083)
    assert (ours.recovery.mean, ours.recovery.sd) == (0.19, 0.032)
    assert (theirs.efficacy.mean, theirs.efficacy.sd) == (0.198, 0.052)
    assert (theirs.recovery.mean, theirs.recovery.sd) == (0.15, 0.054)
