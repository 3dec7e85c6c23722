"""The records of a run, from its folder or from a single file."""

from __future__ import annotations

from pathlib import Path

from servax.errors import PathError
from servax.evaluation import records
from servax.evaluation.records import Records

__all__ = ["home_of", "read_run"]

_RECORDS = "records"


def read_run(path: str | Path) -> Records:
    """Return all records of a run with their common provenance.

    Args:
        path: The folder of a run, which holds ``records/*.parquet``, or one Parquet file.

    Raises:
        ServaxError: There are no records, or they do not belong together.
    """
    source = Path(path)
    if source.suffix == ".parquet" or source.is_file():
        return records.read(source)
    files = sorted((source / _RECORDS).glob("*.parquet"))
    if not files:
        raise PathError(
            source,
            f"holds no {_RECORDS}/*.parquet; expected the folder of a finished run, or one "
            "Parquet file of records",
        )
    return records.concat([records.read(file) for file in files])


def home_of(path: str | Path) -> Path:
    """Return the folder in which a report on `path` belongs: the run, or the file's folder."""
    source = Path(path)
    if source.suffix != ".parquet" and not source.is_file():
        return source
    folder = source.parent
    return folder.parent if folder.name == _RECORDS else folder
