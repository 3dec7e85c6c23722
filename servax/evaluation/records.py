"""The table that every number of a report comes from: one row per utterance and condition.

Columns, in this order (`COLUMNS` gives their types):

========== ======= ===================================================================
utterance  string  name of the recording in its corpus
speaker    string  who speaks
fold       int64   which fold was held out
seed       int64   seed of the run
label      string  true class, by name
prediction string  predicted class, by name
target     string  which recogniser was attacked, for example ``vgg16``
defence    string  ``undefended``, ``ssad``, ``ssad-residual``, ``gaussian-noise``, …
attack     string  ``none``, ``fgsm``, ``pgd``, …
strength   float64 ε of FGSM (in units of the [0, 1] scale), k of PGD, 0 for attack ``none``
knowledge  string  what the attacker knows, one of `KNOWLEDGE`
gender     string  of the speaker; ``unknown`` where the corpus does not say
corpus     string  name of the corpus
norm       string  of the attack's ball, one of `NORMS`
epsilon    float64 size of that ball in units of the input (``snr``: a share of the sound's
                   norm, .01 for 40 dB); 0 for clean input, NaN where it is not recorded
steps      int64   of the attack; 0 for none, or where they are not recorded
step_size  float64 of one step, in units of the input; 0 likewise
restarts   int64   random starts, or 1
draws      int64   draws of a random system whose mean was one gradient, or 1
space      string  what was changed, one of `SPACES`
========== ======= ===================================================================

The last seven came with version 2: `from_version_1` gives them to a table that lacks them.
Version 2 called a ratio ``l2`` too: `from_version_2` tells the two apart.

A file is Parquet; its schema metadata carry a JSON object, the provenance, so that a table never
gets separated from where it came from. Any JSON object is kept. The report knows these keys:
``servax`` (version), ``command``, ``recipe``, ``commit``, ``machine``, ``corpus``, ``scheme``,
``classes``, ``fold_hash``, ``seed``, ``versions`` (package → version), ``scale`` (with
``window_db``) and ``attacks`` (attack → its settings); it prints all others as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from servax.errors import PathError, ServaxError, SettingError
from servax.files import write_whole

COLUMNS: Mapping[str, str] = {
    "utterance": "string",
    "speaker": "string",
    "fold": "int64",
    "seed": "int64",
    "label": "string",
    "prediction": "string",
    "target": "string",
    "defence": "string",
    "attack": "string",
    "strength": "float64",
    "knowledge": "string",
    "gender": "string",
    "corpus": "string",
    "norm": "string",
    "epsilon": "float64",
    "steps": "int64",
    "step_size": "float64",
    "restarts": "int64",
    "draws": "int64",
    "space": "string",
}

NORMS = ("none", "linf", "l2", "snr")
"""Norms of an attack's ball; ``snr`` is L2 as a share of the sound's own; ``none`` stands for "no
attack" and goes with attack ``none`` only."""

SPACES = ("logmel", "waveform")
"""What an attack changes, and a model takes."""

UNDEFENDED = "undefended"
"""Name of the bare model among the defences."""

SINCE_VERSION_2 = tuple(COLUMNS)[-7:]
"""What tables of version 1 do not say."""

KEY = ("utterance", "fold", "seed", "target", "defence", "attack", "strength", "knowledge")
"""No two rows agree in all of these."""

KNOWLEDGE = ("none", "oblivious", "transfer", "black_box", "bpda", "adaptive")
"""What the attacker knows, from least to all; ``none`` goes with attack ``none`` only."""

KNOWING = ("adaptive", "bpda")
"""Attackers who know the defence and take gradients through it."""

_MUST_AGREE = ("corpus", "scheme", "classes", "fold_hash", "scale", "attacks")
"""Provenance that tables must share before their rows may be compared."""

_METADATA_KEY = b"servax"
_VERSION_KEY, _VERSION = b"servax-records", b"3"


@dataclass(frozen=True, eq=False)
class Records:
    """A valid table and where it came from."""

    frame: pd.DataFrame
    """One row per utterance and condition, columns as in `COLUMNS`."""
    provenance: Mapping[str, Any]
    """JSON object that says which code, settings, corpus and machine made the rows."""


def validate(frame: pd.DataFrame, provenance: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return `frame` with exactly the columns of `COLUMNS`, in order, with their types.

    A column that is not in `COLUMNS` is refused, since it would be lost in the file without a word.
    A frame without any column of version 2 gets them as `from_version_1` does.

    Raises:
        ServaxError: a column is missing or foreign, a value is missing or of the wrong type, rows
            repeat a key, or attack, strength and knowledge contradict each other.
        SettingError: an unknown knowledge, norm or space.
    """
    if not set(SINCE_VERSION_2) & set(frame.columns):
        _check_columns(frame.assign(**dict.fromkeys(SINCE_VERSION_2, 0)))
        frame = from_version_1(frame, provenance)
    _check_columns(frame)
    typed = frame.loc[:, list(COLUMNS)].reset_index(drop=True)
    gender = typed["gender"].fillna("unknown")
    typed["gender"] = gender.mask(gender == "", "unknown")
    unknown = typed["epsilon"].isna()
    typed["epsilon"] = typed["epsilon"].mask(unknown, 0.0)
    for name, dtype in COLUMNS.items():
        typed[name] = _typed(typed[name], dtype)
    typed["epsilon"] = typed["epsilon"].mask(unknown)
    _check_attacks(typed)
    twice = typed.duplicated(list(KEY))
    if twice.any():
        row = typed.loc[twice].iloc[0]
        told = ", ".join(f"{name} {row[name]}" for name in KEY)
        raise ServaxError(
            f"records hold {int(twice.sum())} rows twice, first {told}; "
            "expected each condition of an utterance once."
        )
    return typed


def _check_columns(frame: pd.DataFrame) -> None:
    expected = f"expected the columns {', '.join(COLUMNS)}"
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ServaxError(f"records lack the column {missing[0]!r}; {expected}.")
    foreign = [str(name) for name in frame.columns if name not in COLUMNS]
    if foreign:
        raise ServaxError(f"records have a column {foreign[0]!r}; {expected} and no other.")
    if frame.empty:
        raise ServaxError("records have no row; expected at least one utterance.")


def _typed(column: pd.Series[Any], dtype: str) -> pd.Series[Any]:
    name = column.name
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0])
        raise ServaxError(f"row {row} of the records has no {name}; expected a value in each row.")
    if dtype == "string":
        if pd.api.types.infer_dtype(column, skipna=False) != "string" or (column == "").any():
            wrong = next(value for value in column if not isinstance(value, str) or not value)
            raise ServaxError(f"{name} of the records is {wrong!r}; expected a name (str).")
        return column.astype("string")
    try:
        numbers = column.astype("float64")
    except (TypeError, ValueError):
        numbers = pd.Series([np.nan])
    wanted = "numbers" if dtype == "float64" else "whole numbers"
    if not np.isfinite(numbers).all() or (dtype == "int64" and (numbers % 1 != 0).any()):
        raise ServaxError(f"{name} of the records has values that are not {wanted}.")
    return column.astype("float64") if dtype == "float64" else column.astype("int64")


def _check_attacks(frame: pd.DataFrame) -> None:
    for name, allowed in (("knowledge", KNOWLEDGE), ("norm", NORMS), ("space", SPACES)):
        for given in frame[name].unique():
            if given not in allowed:
                raise SettingError.choice(name, given, allowed)
    clean = frame["attack"] == "none"
    rules = (
        (clean & (frame["knowledge"] != "none"), "attack 'none' goes with knowledge 'none'"),
        (~clean & (frame["knowledge"] == "none"), "knowledge 'none' goes with attack 'none'"),
        (clean & (frame["strength"] != 0), "attack 'none' has strength 0"),
        (~clean & (frame["strength"] <= 0), "an attack has a strength above 0"),
        (clean != (frame["norm"] == "none"), "attack 'none' alone has norm 'none'"),
    )
    for broken, rule in rules:
        if broken.any():
            row = frame.loc[broken].iloc[0]
            raise ServaxError(
                f"records hold attack {row['attack']!r} with strength {row['strength']:g} and "
                f"knowledge {row['knowledge']!r}, but {rule}."
            )


def from_version_1(
    frame: pd.DataFrame, provenance: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Return a table of version 1 with the columns of version 2, as far as they can be known.

    A whole strength of ``pgd`` is its k in a run, with step and radius as the provenance says; any
    other strength is the size of a ball, whose norm the provenance of an audit says.

    Args:
        frame: With the columns of version 1.
        provenance: Of the table.
    """
    told = [(provenance or {}).get(name) for name in ("audit", "attacks")]
    audit, grid = (each if isinstance(each, dict) else {} for each in told)
    budget = audit.get("budget", {})
    strength = pd.to_numeric(frame["strength"], errors="coerce")
    attack = frame["attack"].astype("string").fillna("")
    clean, fgsm, sound = attack == "none", attack == "fgsm", attack.str.startswith("pgd-waveform")
    k = strength.where((attack == "pgd") & (strength % 1 == 0) & (not audit), 0.0)
    in_run, radius = k > 0, float(grid.get("radius", np.nan))
    step = strength.where(fgsm, 0.0).mask(in_run, float(grid.get("step", 0.0)))
    # The benchmark's attacker: pgd-restarts-100x5.
    shape = attack.str.extract(r"^pgd-restarts-(\d+)x(\d+)$").astype("float64")
    step = step.mask(shape[0].notna(), strength / 4)
    of_sound = sound | (budget.get("bounds", (0.0, 1.0))[0] < 0)
    return frame.assign(
        norm=pd.Series(budget.get("norm", "linf"), frame.index)
        .mask(sound, "snr")
        .mask(clean, "none"),
        epsilon=strength.mask(in_run, radius).mask(clean, 0.0),
        steps=k.mask(fgsm, 1).add(shape[0].fillna(0)).fillna(0).astype("int64"),
        step_size=step.fillna(0.0),
        restarts=shape[1].fillna(1).astype("int64"),
        draws=1,
        space=pd.Series("logmel", frame.index).mask(of_sound, "waveform"),
    )


def from_version_2(frame: pd.DataFrame, provenance: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table of version 2 with the word ``snr`` for what is a share of a sound's norm.

    All L2 balls of sound were such shares, but for those of an audit of a model of sound that was
    told ``--norm l2``.
    """
    budget = (provenance.get("audit") or {}).get("budget", {})
    if budget.get("norm") == "l2" and budget.get("bounds", (0.0, 1.0))[0] < 0:
        return frame
    ratio = (frame["norm"] == "l2") & (frame["space"] == "waveform")
    return frame.assign(norm=frame["norm"].mask(ratio, "snr"))


def write(frame: pd.DataFrame, path: str | Path, *, provenance: Mapping[str, Any]) -> None:
    """Write a valid table and its provenance to `path`; the file appears whole or not at all.

    Args:
        frame: one row per utterance and condition; see the module docstring.
        path: the Parquet file; its folder is made when it does not exist.
        provenance: a JSON object.

    Raises:
        ServaxError, SettingError: see `validate`; or the provenance is not JSON, or the file
            cannot be written.
    """
    try:
        told = json.dumps(dict(provenance), allow_nan=False, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise ServaxError(
            f"the provenance cannot be stored as JSON: {error}; "
            "expected strings, numbers, lists and objects only."
        ) from error
    arrow_types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64()}
    fields = [pa.field(name, arrow_types[of], nullable=False) for name, of in COLUMNS.items()]
    typed, schema = (
        validate(frame),
        pa.schema(fields, metadata={_METADATA_KEY: told, _VERSION_KEY: _VERSION}),
    )
    arrays = [pa.array(typed[each.name].to_numpy(), each.type) for each in fields]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes())


def read(path: str | Path, *, attacks: Mapping[str, Any] | None = None) -> Records:
    """Return the table at `path` with its provenance.

    Args:
        path: The file.
        attacks: Settings of the attacks, for a table of version 1 that does not carry them itself.

    Raises:
        PathError: there is no such file, it is not Parquet, it carries no provenance of servax,
            or its rows are not valid; the sentence starts with the path.
    """
    source = Path(path)
    if not source.is_file():
        raise PathError(source, "no such file, expected a records table (.parquet)")
    try:
        table = pq.read_table(source, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise PathError(source, "not a readable Parquet file, expected a records table") from error
    metadata = table.schema.metadata or {}
    stored = metadata.get(_METADATA_KEY)
    if stored is None:
        raise PathError(source, "no provenance inside, expected a table that servax has written")
    provenance = json.loads(stored)
    told, frame = {"attacks": attacks, **provenance}, table.to_pandas(ignore_metadata=True)
    try:
        typed = validate(frame, told)
        return Records(
            typed if _VERSION_KEY in metadata else from_version_2(typed, provenance), provenance
        )
    except ServaxError as error:
        raise PathError(source, str(error)) from error


def concat(parts: Sequence[Records]) -> Records:
    """Return the rows of all `parts` in one table, with one provenance.

    A provenance value that all parts share is kept; where they differ (seed, machine, …) the
    values stand in a list, in the order of the parts.

    Raises:
        ServaxError: no parts, rows repeat a key, or parts that cannot be compared because they
            differ in corpus, scheme, classes, folds, scale or attack settings.
    """
    if not parts:
        raise ServaxError("no records to join, expected at least one table.")
    provenance: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part.provenance):
        given = [part.provenance[name] for part in parts if name in part.provenance]
        values = [value for i, value in enumerate(given) if value not in given[:i]]
        if len(values) > 1 and name in _MUST_AGREE:
            first, second = (json.dumps(value, sort_keys=True) for value in values[:2])
            raise ServaxError(
                f"records differ in their {name} ({first} and {second}) "
                "and cannot be compared; join tables of one setting only."
            )
        provenance[name] = values[0] if len(values) == 1 else values
    frame = pd.concat([part.frame for part in parts], ignore_index=True)
    return Records(validate(frame), provenance)


WORST_CASE = "worst-case"
"""Name of the attack in the rows of `worst_case`."""


def worst_case(frame: pd.DataFrame, *, knowledge: str | Sequence[str]) -> pd.DataFrame:
    """Return records of the strongest attack on each utterance, attack by name ``worst-case``.

    An attacker picks the attack after seeing the utterance, so an utterance is safe only where
    every attack fails. The minimum over attacks of a mean is higher: each attack misses other
    utterances (Croce & Hein 2020 report the worst case for this reason).

    Args:
        frame: Records, with one or several attacks per system and strength.
        knowledge: What the attacker knows, one name or several, whose attacks are then taken
            together; the rows are labelled with the first.

    Returns:
        One row per utterance, system and strength: a wrong prediction where any attack of that
        strength broke it (that of the first such attack in `frame`), else the right one.

    Raises:
        ServaxError: No attack of this knowledge is in the records.
    """
    names = [knowledge] if isinstance(knowledge, str) else list(knowledge)
    typed = validate(frame)
    rows = typed[typed["knowledge"].isin(names) & (typed["attack"] != "none")]
    if rows.empty:
        raise ServaxError(
            f"the records hold no attack with knowledge {' or '.join(map(repr, names))}; expected "
            f"one of {', '.join(map(str, typed['knowledge'].unique()))}."
        )
    key = [name for name in KEY if name not in ("attack", "knowledge")]
    right = rows["prediction"] == rows["label"]
    # A stable sort puts broken rows first and keeps the order of attacks among them.
    order = right.sort_values(kind="stable").index
    picked = rows.loc[order].drop_duplicates(key).sort_index()
    return validate(picked.assign(attack=WORST_CASE, knowledge=names[0]))
