from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from servax.report import figures, protection
from servax.report.examples import Examples
from servax.report.logs import curves
from servax.report.outcomes import collect
from servax.report.spectrograms import spectrogram_triple
from servax.report.style import look, png

SMALLEST_POINTS = 8.0  # of all type but the numbers in large confusion matrices


def check(figure: Figure) -> None:
    """Every text lies on the page and is large enough to read."""
    figure.canvas.draw()
    drawn = figure.get_tightbbox(figure.canvas.get_renderer())  # in inches, as the size is
    width, height = figure.get_size_inches()
    assert drawn.x0 >= -0.02
    assert drawn.y0 >= -0.02
    assert drawn.x1 <= width + 0.02
    assert drawn.y1 <= height + 0.02
    for text in figure.findobj(Text):
        assert text.get_fontsize() >= SMALLEST_POINTS or not text.get_text(), text.get_text()


def test_protection_curves_show_the_table(small: pd.DataFrame) -> None:
    outcomes = collect(small)
    figure = figures.protection_curves(outcomes)
    check(figure)
    by_steps = protection.curves(outcomes)
    for axes, measure, dash in zip(figure.axes, ("PE", "RR"), ("-", "--"), strict=True):
        line = next(line for line in axes.lines if line.get_label() == "ssad")
        np.testing.assert_allclose(line.get_ydata(), by_steps["ssad", measure])
        assert line.get_linestyle() == dash
        colours = {line.get_color() for line in axes.lines if len(line.get_xdata()) > 2}
        assert len(colours) == 6
        assert any("adaptive" in text.get_text() for text in axes.texts)


def test_uar_curves(small: pd.DataFrame) -> None:
    outcomes = collect(small)
    figure = figures.uar_curves(outcomes)
    check(figure)
    assert any("adaptive" in text.get_text() for text in figure.axes[1].texts)
    check(figures.uar_curves(collect(small[small["defence"] == "undefended"])))


@pytest.mark.parametrize("defence", ["ssad", "undefended"])
def test_confusion_matrices(small: pd.DataFrame, defence: str) -> None:
    figure = figures.confusion_matrices(collect(small), defence=defence)
    check(figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    expected = ["clean", "oblivious PGD-15", "adaptive PGD-30"]
    names = ["undefended", "ssad"] if defence == "ssad" else ["undefended"]
    assert titles == [f"{name}\n{words}" for name in names for words in expected]


def test_confusion_rows_are_percent_of_the_true_class(small: pd.DataFrame) -> None:
    figure = figures.confusion_matrices(collect(small), defence="ssad")
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=1), 100)


def test_spectrograms_have_seconds_and_decibels(examples: Examples) -> None:
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


def test_spectrograms_of_equal_parts(examples: Examples) -> None:
    same = Examples(examples.original, examples.original, examples.original, 0.016, "t" * 150)
    check(spectrogram_triple(same))


def test_training_curves(log: Path) -> None:
    figure = figures.training_curves(curves(log), title="recogniser")
    check(figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "rate", "uar"]
    assert len(figure.axes[0].lines) == 2


def test_one_term_and_many(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 1, "train/loss": 0.5}\n')
    check(figures.training_curves(curves(path), title="one"))
    terms = ", ".join(f'"train/term{i}": {i}' for i in range(7))
    path.write_text(f'{{"epoch": 1, {terms}}}\n{{"epoch": 2, {terms}}}\n')
    check(figures.training_curves(curves(path), title="seven"))


def test_looks_differ() -> None:
    names = ["undefended", "ssad", "ssad-residual", "mean-filter", "pgd-at", "trades", "smoothing"]
    looks = [look(name, names) for name in names]
    assert len({each.colour for each in looks}) == len({each.marker for each in looks}) == 7


def test_same_figure_same_bytes(examples: Examples) -> None:
    assert png(spectrogram_triple(examples), dpi=40) == png(spectrogram_triple(examples), dpi=40)
