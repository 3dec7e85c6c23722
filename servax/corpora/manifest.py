"""Anybody's own corpus: a CSV or Parquet table with a row per utterance.

=========  ==========  ======================================================================
column     needed      what
=========  ==========  ======================================================================
path       yes         sound file, absolute or relative to the folder of the manifest
label      yes         class name
speaker    yes         whoever must not stand in two parts of a fold
session    no          recording session shared by speakers
start      no          first moment, in seconds; empty is 0
end        no          moment after the last one, in seconds; empty is the end of the file
gender     no          female, male or empty
text       no          identity of the sentence
utterance  no          unique name; default: the path, and the start where a path repeats
=========  ==========  ======================================================================

Other columns are passed over, unless they look like a misspelt one of these; `read_values` reads
those of numbers, such as arousal and valence. CSV is UTF-8, comma
separated, with a header. Every cell is read as text, so that speaker ``01`` stays ``01``.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pyarrow
import pyarrow.parquet

from servax.corpora.description import Scan, Utterance
from servax.errors import CorpusError, nearest

SUFFIXES = (".csv", ".parquet")
NEEDED = ("path", "label", "speaker")
OPTIONAL = ("session", "start", "end", "gender", "text", "utterance")

Row = dict[str, str]
Key = TypeVar("Key", bound=Hashable)


def is_manifest(name: str) -> bool:
    """Tell whether a corpus name is the path of a manifest."""
    return Path(name).suffix.lower() in SUFFIXES


def read_manifest(path: Path, root: Path, *, with_files: bool = True) -> Scan:
    """Return the utterances of a manifest, every row checked.

    Args:
        path: ``.csv`` or ``.parquet`` file.
        root: Folder that relative paths start from.
        with_files: Whether every sound file must be there; else each is left to its turn.

    Raises:
        CorpusError: The table cannot be read, or a row breaks a rule; the sentence names the line
            (the header of a CSV file is line 1; Parquet rows count from 1).
    """
    if not path.is_file():
        raise CorpusError(f"{path}: does not exist or is no file, expected a CSV or Parquet table.")
    read = _read_csv if path.suffix.lower() == ".csv" else _read_parquet
    columns, rows = read(path)
    _check_columns(path, columns)
    if not rows:
        raise CorpusError(f"{path}: has no rows, expected one per utterance.")
    lines, utterances = zip(
        *((line, _utterance(path, line, row)) for line, row in rows), strict=True
    )
    # NaN is not equal to itself.
    for line, first, key in _repeated(lines, [(u.path, u.start, str(u.end)) for u in utterances]):
        raise CorpusError(f"{path}: {line} repeats {first} ({key[0]}).")
    times = Counter(u.path for u in utterances)
    names = [
        u.utterance or (u.path if times[u.path] == 1 else f"{u.path}@{u.start!r}-{u.end!r}")
        for u in utterances
    ]
    for line, first, name in _repeated(lines, names):
        raise CorpusError(f"{path}: {line} has the utterance name {name!r} of {first}.")
    if with_files:
        for line, utterance in zip(lines, utterances, strict=True):
            if "\0" in utterance.path:
                raise CorpusError(f"{path}: {line} has a zero byte in its path.")
        _refuse_missing_files(path, root, list(dict.fromkeys(u.path for u in utterances)))
    return Scan(tuple(replace(u, utterance=n) for u, n in zip(utterances, names, strict=True)))


def read_values(path: Path, columns: Sequence[str]) -> dict[str, tuple[float, ...]] | None:
    """Return the numbers that a manifest says of each utterance, by its name.

    Args:
        path: As of `read_manifest`.
        columns: Their names, without regard to case.

    Returns:
        None where the manifest has none of the columns.

    Raises:
        CorpusError: The table cannot be read, has some of the columns only, or a cell is no number.
    """
    read = _read_csv if path.suffix.lower() == ".csv" else _read_parquet
    names, rows = read(path)
    spelt = {name.casefold(): name for name in names}
    found = [spelt.get(name.strip().casefold()) for name in columns]
    if not any(found):
        return None
    if None in found:
        lacking = ", ".join(n for n, there in zip(columns, found, strict=True) if there is None)
        raise CorpusError(
            f"{path}: lacks the columns {lacking}, expected all or none of the model's."
        )
    scan = read_manifest(path, path.parent, with_files=False)
    values: dict[str, tuple[float, ...]] = {}
    for utterance, (line, row) in zip(scan.utterances, rows, strict=True):
        try:
            told = tuple(float(row[str(name)]) for name in found)
        except ValueError:
            told = (math.nan,)
        if not all(map(math.isfinite, told)):
            raise CorpusError(f"{path}: {line} has a cell that is no number in {found}.")
        values[utterance.utterance] = told
    return values


def _read_csv(path: Path) -> tuple[list[str], list[tuple[str, Row]]]:
    """Return the header, and each row with its place (``line 2``, …)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = [name.strip() for name in next(reader, [])]
            rows = []
            for cells in reader:
                if not cells:
                    continue  # an empty line
                if len(cells) != len(columns):
                    raise CorpusError(
                        f"{path}: line {reader.line_num} has {len(cells)} cells, the header has "
                        f"{len(columns)}: quote cells that hold commas."
                    )
                stripped = (cell.strip() for cell in cells)
                rows.append((f"line {reader.line_num}", dict(zip(columns, stripped, strict=True))))
    except UnicodeDecodeError:
        raise CorpusError(f"{path}: is not UTF-8 text, save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise CorpusError(f"{path}: line {reader.line_num} is not CSV ({error}).") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}).") from None
    return columns, rows


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[str, Row]]]:
    """Return the column names, and each row with its place (``row 1``, …)."""
    try:
        # Not read_table, which adds a column for each folder named like a=b.
        with pyarrow.parquet.ParquetFile(path) as file:
            table = file.read()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CorpusError(f"{path}: is not a Parquet table ({reason}).") from None
    texts: dict[str, list[str]] = {}
    for name, cells in zip(table.column_names, table.columns, strict=True):
        if pyarrow.types.is_nested(cells.type) or pyarrow.types.is_binary(cells.type):
            if name in NEEDED + OPTIONAL:
                raise CorpusError(
                    f"{path}: column {name!r} holds {cells.type}, expected text or numbers."
                )
        else:
            texts[name] = [_text(value) for value in cells.to_pylist()]
    rows = zip(*texts.values(), strict=True)
    return list(table.column_names), [
        (f"row {number}", dict(zip(texts, row, strict=True))) for number, row in enumerate(rows, 1)
    ]


def _text(value: object) -> str:
    """Return a Parquet cell as text; nothing and NaN are empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    """Refuse columns that are missing, doubled or look misspelt."""
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        found = ", ".join(repr(name) for name in columns) or "none"
        raise CorpusError(
            f"{path}: lacks the columns {', '.join(missing)}; it has {found}. "
            f"Expected {', '.join(NEEDED)}, separated by commas."
        )
    for name, count in Counter(columns).items():
        if count > 1 and name in NEEDED + OPTIONAL:
            raise CorpusError(f"{path}: column {name!r} stands {count} times, expected once.")
        if name not in NEEDED + OPTIONAL:
            hint = nearest(name.lower(), [c for c in OPTIONAL if c not in columns])
            if hint:
                raise CorpusError(f"{path}: column {name!r} is unknown.{hint}")


def _utterance(path: Path, line: str, row: Row) -> Utterance:
    """Return the utterance of a row after checking every cell."""
    for name in NEEDED:
        if not row[name]:
            raise CorpusError(f"{path}: {line} has no {name}.")
    start = _seconds(path, line, "start", row.get("start", ""), empty=0.0)
    end = _seconds(path, line, "end", row.get("end", ""), empty=math.nan)
    if end <= start:
        raise CorpusError(f"{path}: {line} ends at {end:g} s, expected a time after {start:g} s.")
    gender = row.get("gender", "")
    if gender not in ("", "female", "male"):
        raise CorpusError(f"{path}: {line} has gender {gender!r}, expected female, male or empty.")
    return Utterance(
        utterance=row.get("utterance", ""),
        path=row["path"],
        emotion=row["label"],
        speaker=row["speaker"],
        gender=gender,
        session=row.get("session", ""),
        text=row.get("text", ""),
        start=start,
        end=end,
    )


def _seconds(path: Path, line: str, name: str, cell: str, *, empty: float) -> float:
    if not cell:
        return empty
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise CorpusError(f"{path}: {line} has {name} {cell!r}, expected a number of seconds >= 0.")
    return value


def _repeated(lines: Sequence[str], keys: Sequence[Key]) -> Iterator[tuple[str, str, Key]]:
    """Yield each line whose key stood before, with the line where it stood first."""
    seen: dict[Key, str] = {}
    for line, key in zip(lines, keys, strict=True):
        if (first := seen.setdefault(key, line)) != line:
            yield line, first, key


def _refuse_missing_files(path: Path, root: Path, files: Sequence[str]) -> None:
    missing = [file for file in files if not _is_file(root / file)]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise CorpusError(
            f"{path}: {len(missing)} of {len(files)} sound files do not exist: {shown}. "
            f"Relative paths start from {root}."
        )


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name too long for the file system
        return False
