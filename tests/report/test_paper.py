"""The paper's numbers, as the paper's own averages, σ and bold type check them."""

from __future__ import annotations

import math
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
        assert [len(row[attack]) for attack in paper.GRID] == [5, 5]
        means = [paper.uar(name, attack, grid)[0] for attack, grid in paper.GRID.items()]
        assert means == pytest.approx(MEANS[name])


@pytest.mark.parametrize(("name", "attack", "mean", "sigma"), PRINTED)
def test_printed_sigmas_are_population_sds(
    name: str, attack: str, mean: float, sigma: float
) -> None:
    values = paper.TABLE_1[name][attack]
    found = paper.uar(name, attack, paper.GRID[attack])
    assert found[0] == pytest.approx(mean, abs=0.005)
    assert found[1] == pytest.approx(statistics.pstdev(values))
    assert found[1] == pytest.approx(sigma, abs=0.006)
    assert abs(statistics.stdev(values) - sigma) > 0.1


def test_the_sigma_of_the_best_adv_under_fgsm_follows_from_no_row() -> None:
    for row in paper.TABLE_1.values():
        for values in row.values():
            assert abs(statistics.pstdev(values) - 4.71) > 0.05
            assert abs(statistics.stdev(values) - 4.71) > 0.05


def test_best_of_each_column_is_what_the_paper_prints_bold() -> None:
    best = []
    for attack, grid in paper.GRID.items():
        for strength in grid:
            column = {name: paper.uar(name, attack, [strength])[0] for name in paper.TABLE_1}
            best.append(max(column, key=lambda name: column[name]))
    assert best == ["adversarial-similarity-0.003"] * 2 + ["ssad"] * 8


def test_shares_of_the_clean_uar() -> None:
    fgsm, pgd = (statistics.fmean(values) for values in paper.TABLE_1["ssad"].values())
    assert fgsm / paper.CLEAN_UAR == pytest.approx(0.85, abs=0.005)
    assert pgd / paper.CLEAN_UAR == pytest.approx(0.69, abs=0.005)


def test_nothing_is_told_off_the_grid() -> None:
    assert paper.uar("ssad", "pgd", [9.0])[0] == 33.21
    assert paper.uar("ssad", "fgsm", [3e-3 + 1e-12])[0] == 45.94
    for attack, strengths in (("pgd", [30]), ("pgd", [3, 6]), ("fgsm", [0.004]), ("none", [0.0])):
        assert math.isnan(paper.uar("ssad", attack, strengths)[0])
