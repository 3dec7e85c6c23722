"""The tidy measures of records as a grid: row = defence, column = heading, value = UAR in %."""

from __future__ import annotations

import pandas as pd

from servax.report import Measures, collect


def as_grid(frame: pd.DataFrame, value: str = "uar_percent") -> pd.DataFrame:
    told = Measures(collect(frame)).table
    wide = told.pivot_table(index="defence", columns="column", values=value)
    return wide.reindex(index=told["defence"].unique(), columns=told["column"].unique())
