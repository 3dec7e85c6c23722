"""The benchmark: one entry per defence, all measured alike, in one table."""

from servax.benchmark.record import (
    Adaptive,
    Figure,
    Figures,
    Protocol,
    Record,
    Sample,
    Training,
    read_all,
    read_record,
    with_figures,
    write_record,
)

__all__ = [
    "Adaptive",
    "Figure",
    "Figures",
    "Protocol",
    "Record",
    "Sample",
    "Training",
    "read_all",
    "read_record",
    "with_figures",
    "write_record",
]
