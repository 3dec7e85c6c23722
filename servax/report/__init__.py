"""Records become tables, figures, a Markdown page and one self-contained HTML file."""

from __future__ import annotations

from servax.report.comparison import write_comparison
from servax.report.figures import (
    certified_shares,
    protection_curves,
    risk_curves,
    spectrogram_triple,
    uar_curves,
)
from servax.report.measures import Measures
from servax.report.predictions import CLEAN, Condition, Predictions, collect
from servax.report.rendering import ReportPaths
from servax.report.run import write_report
from servax.report.run_files import Examples, home_of, read_run, training_curves_of
from servax.report.run_tables import table_1
from servax.report.style import png
from servax.report.tables import Cell, Head, Table

__all__ = [
    "CLEAN",
    "Cell",
    "Condition",
    "Examples",
    "Head",
    "Measures",
    "Predictions",
    "ReportPaths",
    "Table",
    "certified_shares",
    "collect",
    "home_of",
    "png",
    "protection_curves",
    "read_run",
    "risk_curves",
    "spectrogram_triple",
    "table_1",
    "training_curves_of",
    "uar_curves",
    "write_comparison",
    "write_report",
]
