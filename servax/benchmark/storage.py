"""Entries of the benchmark on disk: strict when read, whole when written."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from servax.benchmark.record import Figures, Record
from servax.errors import PathError, ServaxError
from servax.experiments.reading import build
from servax.files import json_text, write_whole

__all__ = ["read_all", "read_record", "with_figures", "write_record"]


def read_record(path: str | Path) -> Record:
    """Return the entry in a file.

    Raises:
        PathError: There is no such file, it is not JSON, a key is unknown or missing, or a value is
            outside its rule; the sentence starts with the path.
    """
    path = Path(path)
    try:
        given = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise PathError(path, f"cannot be read ({error.strerror})") from None
    except ServaxError as error:
        raise PathError(path, str(error)) from None
    except (ValueError, RecursionError):
        raise PathError(path, "is not JSON, expected an entry of the benchmark") from None
    if not isinstance(given, dict):
        raise PathError(path, "does not hold a JSON object, expected an entry of the benchmark")
    try:
        record = build(Record, given)
    except ServaxError as error:
        raise PathError(path, str(error)) from None
    if record.name != path.stem:
        raise PathError(
            path, f"tells of {record.name!r}; a file is called after its entry, rename one of them"
        )
    return record


def read_all(folder: str | Path) -> list[Record]:
    """Return all entries of a folder, by name.

    Raises:
        PathError: As `read_record`.
    """
    return [read_record(path) for path in sorted(Path(folder).glob("*.json"))]


def write_record(record: Record, folder: str | Path) -> Path:
    """Write an entry to ``<folder>/<name>.json`` and return where.

    Raises:
        ServaxError: The file cannot be written.
    """
    path = Path(folder) / f"{record.name}.json"
    write_whole(path, f"{json_text(asdict(record))}\n".encode())
    return path


def with_figures(record: Record, figures: Figures) -> Record:
    """Return the entry with figures of one network and set, in place of those it had of them."""
    key = (figures.target, figures.groups)
    others = [each for each in record.figures if (each.target, each.groups) != key]
    together = sorted([*others, figures], key=lambda each: (each.target, each.groups))
    return replace(record, figures=tuple(together))


def _no_constant(name: str) -> float:
    raise ServaxError(f"holds {name}, expected finite numbers; null says not measured.")
