from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from servax.report import (
    Examples,
    Measures,
    collect,
    figures,
    png,
    spectrogram_triple,
    training_curves_of,
)
from servax.report.run import pictures
from servax.report.style import look

Check = Callable[[Figure], None]


def test_uar_curves(small: pd.DataFrame, check: Check) -> None:
    outcomes = Measures(collect(small))
    figure = figures.uar_curves(outcomes)
    check(figure)
    assert any("adaptive" in text.get_text() for text in figure.axes[1].texts)
    check(figures.uar_curves(Measures(collect(small[small["defence"] == "undefended"]))))


@pytest.mark.parametrize("defence", ["ssad", "undefended"])
def test_confusion_matrices(small: pd.DataFrame, defence: str, check: Check) -> None:
    figure = figures.confusion_matrices(Measures(collect(small)), defences=[defence])
    check(figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    expected = ["clean", "oblivious PGD-15", "adaptive PGD-30"]
    names = ["undefended", "ssad"] if defence == "ssad" else ["undefended"]
    assert titles == [f"{name}\n{words}" for name in names for words in expected]


def test_confusion_rows_are_percent_of_the_true_class(small: pd.DataFrame) -> None:
    figure = figures.confusion_matrices(Measures(collect(small)), defences=["ssad"])
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), 100)


def test_spectrograms_have_seconds_and_decibels(examples: Examples, check: Check) -> None:
    figure = spectrogram_triple(examples)
    check(figure)
    pictures = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in pictures] == [
        "original",
        "attacked",
        "attacked − original",
        "purified",
        "purified − original",
    ]
    for axes in pictures:
        assert axes.images[0].get_extent() == [0, pytest.approx(200 * 0.016), 0, 64]
        low, high = axes.images[0].get_clim()
        assert low < high
        if "−" in axes.get_title(loc="left"):
            assert low == -high
    assert [axes.get_ylabel() for axes in figure.axes].count("dB") == 5


def test_spectrograms_of_equal_parts(examples: Examples, check: Check) -> None:
    same = Examples(examples.original, examples.original, examples.original, 0.016, "t" * 150)
    check(spectrogram_triple(same))


def test_training_curves(log: Path, check: Check) -> None:
    figure = figures.training_curves(training_curves_of(log), title="recogniser")
    check(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "rate", "uar"]
    assert len(figure.axes[0].lines) == 2


def test_one_term_and_many(tmp_path: Path, check: Check) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 1, "train/loss": 0.5}\n')
    check(figures.training_curves(training_curves_of(path), title="one"))
    terms = ", ".join(f'"train/term{i}": {i}' for i in range(7))
    path.write_text(f'{{"epoch": 1, {terms}}}\n{{"epoch": 2, {terms}}}\n')
    check(figures.training_curves(training_curves_of(path), title="seven"))


def test_looks_differ() -> None:
    names = ["undefended", "ssad", "ssad-residual", "mean-filter", "pgd-at", "trades", "smoothing"]
    looks = [look(name, names) for name in names]
    assert len({each.colour for each in looks}) == len({each.marker for each in looks}) == 7


def test_same_figure_same_bytes(examples: Examples) -> None:
    assert png(spectrogram_triple(examples), dpi=40) == png(spectrogram_triple(examples), dpi=40)


def test_without_ssad_its_variant_is_confused_before_a_control(small: pd.DataFrame) -> None:
    renamed = small.replace({"defence": {"ssad": "ssad-plus"}})
    kept = renamed[renamed["defence"].isin(["undefended", "ssad-plus", "mean-filter"])]
    outcomes = Measures(collect(kept))
    assert "ssad" not in outcomes.defences
    (caption,) = [p.caption for p in pictures(outcomes, None, {}) if p.name == "confusion"]
    assert caption.endswith("above without a defence, below with ssad-plus.")


def test_names_of_many_classes_do_not_lie_over_each_other(small: pd.DataFrame) -> None:
    many = small.copy()
    codes = [f"{i:02d}" for i in range(24)]
    draws = np.random.default_rng(0).integers(0, 24, (2, len(many)))
    many["label"], many["prediction"] = ([codes[i] for i in row] for row in draws)
    many["label"] = many["utterance"].map(dict(zip(many["utterance"], many["label"], strict=True)))
    figure = figures.confusion_matrices(Measures(collect(many)), defences=[])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_xticklabels()]
    assert all(a.x1 <= b.x0 + 1 for a, b in pairwise(boxes))
