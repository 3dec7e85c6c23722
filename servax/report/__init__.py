"""Records become tables, figures, a Markdown page and one self-contained HTML file."""

from __future__ import annotations

from servax.report.examples import Examples
from servax.report.figure_two import protection_curves
from servax.report.figures import confusion_matrices, training_curves, uar_curves
from servax.report.outcomes import Condition, Outcomes, collect
from servax.report.reading import read_run
from servax.report.spectrograms import spectrogram_triple
from servax.report.style import png
from servax.report.versus import write_comparison
from servax.report.write import ReportPaths, write_report

__all__ = [
    "Condition",
    "Examples",
    "Outcomes",
    "ReportPaths",
    "collect",
    "confusion_matrices",
    "png",
    "protection_curves",
    "read_run",
    "spectrogram_triple",
    "training_curves",
    "uar_curves",
    "write_comparison",
    "write_report",
]
