"""Records become tables, figures, a Markdown page and one self-contained HTML file."""

from __future__ import annotations

from servax.report.comparison import write_comparison
from servax.report.figures import (
    confusion_matrices,
    protection_curves,
    risk_curves,
    spectrogram_triple,
    training_curves,
    uar_curves,
)
from servax.report.measures import Column, Measures
from servax.report.predictions import CLEAN, Condition, Predictions, collect
from servax.report.rendering import Picture, Report, ReportPaths, markdown_table
from servax.report.run import write_report
from servax.report.run_files import Examples, home_of, read_run, training_curves_of
from servax.report.run_tables import table_1
from servax.report.style import new_figure, png, tidy
from servax.report.tables import Cell, Field, Head, Table

__all__ = [
    "CLEAN",
    "Cell",
    "Column",
    "Condition",
    "Examples",
    "Field",
    "Head",
    "Measures",
    "Picture",
    "Predictions",
    "Report",
    "ReportPaths",
    "Table",
    "collect",
    "confusion_matrices",
    "home_of",
    "markdown_table",
    "new_figure",
    "png",
    "protection_curves",
    "read_run",
    "risk_curves",
    "spectrogram_triple",
    "table_1",
    "tidy",
    "training_curves",
    "training_curves_of",
    "uar_curves",
    "write_comparison",
    "write_report",
]
