"""Which file becomes which: of one sound, of a folder or of a manifest, before any work begins.

What a file becomes depends on its own name alone, never on what lies beside it, and no two files
become one: ``a.wav`` stays ``a.wav``, ``a.mp3`` becomes ``a.mp3.wav``, ``a.mp3.wav`` becomes
``a.mp3.wav.wav``. No target is a source, by whatever name, link or hard link.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from servax import audio
from servax.errors import AudioError, PathError, shown
from servax.files import write_whole
from servax.purifier.folders import (
    SOUNDS,
    files_below,
    identity,
    no_sound,
    same_file,
    unread,
)

if TYPE_CHECKING:
    from servax.corpora import Utterance

LOGMEL = ".npy"
MANIFESTS = (".csv", ".parquet")
MANIFEST = "manifest.csv"
COLUMNS = ["path", "label", "speaker", "gender", "session", "text", "utterance"]
ITSELF = "is the sound itself; give another place to write"


SampleFormat = Literal["keep", "16", "24", "float"]
"""Bits of the samples of a sound that is written; keep: those of its source, 16 for MP3 and the
like. What goes beyond full scale is written as floats always."""


@dataclass(frozen=True)
class FileJob:
    """One sound, or one log-Mel, to work on."""

    source: str
    """A sound file, or the log-Mel (M, F) on [0, 1] of one, as ``.npy``."""
    target: str
    """Where it goes: ``.wav`` or ``.flac``; ``.npy`` for a log-Mel."""
    start: float = 0.0
    """First moment wanted, in seconds."""
    end: float | None = None
    """Moment after the last one wanted, in seconds; none is the end of the file."""
    format: SampleFormat = "keep"
    """How samples are written."""


@dataclass(frozen=True)
class Outcome:
    """What became of a file."""

    source: str
    """What was to be worked on."""
    target: str
    """Where it lies, or would; empty where nothing was to be made of it."""
    status: Literal["done", "skipped", "failed", "not_sound"]
    """`skipped` was there already; `not_sound` has an ending that servax does not take."""
    seconds: float = 0.0
    """How long the sound plays; 0 for a log-Mel and for what was not done."""
    sentence: str = ""
    """Why it failed."""
    limited_samples: int = 0
    """How many samples of all channels the limiter lowered, to stay within full scale."""
    limited_db: float = 0.0
    """By how much at most."""
    subtype: str = ""
    """How the samples are written: ``PCM_16``, or ``FLOAT`` beyond full scale."""


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what is known before: together every file that was seen."""

    jobs: tuple[FileJob, ...]
    """What is to be done, in the order of the names."""
    told: tuple[Outcome, ...] = ()
    """What cannot be done, and what is not sound."""
    rows: tuple[tuple[Utterance, str], ...] = ()
    """The utterances of a manifest, each with its target."""
    notes: tuple[str, ...] = ()
    """What lies below the folder and was not read."""


def plan_purification(source: Path, out: Path) -> Plan:
    """Return what `servax purify` makes of a sound file, a folder, or a CSV or Parquet manifest.

    Args:
        source: What there is.
        out: A file for a file, else a folder; that of a folder keeps its structure.

    Raises:
        AudioError: There is nothing of that name, or no sound in it.
        CorpusError: The manifest breaks a rule.
        PathError: `out` is the source or would replace one of the sounds, or its ending is not
            that of what it would hold.
    """
    if os.path.isdir(source):  # noqa: PTH112  never raises, whatever the name
        return _of_folder(source, out, (*SOUNDS, LOGMEL))
    _check_file(source)
    if source.suffix.lower() in MANIFESTS:
        return _of_manifest(source, out)
    if out.is_dir():
        raise PathError(out, f"is a folder; give a file, such as {out / source.name}")
    endings = (LOGMEL,) if source.suffix.lower() == LOGMEL else tuple(audio.WRITABLE)
    if out.suffix.lower() not in endings:
        raise PathError(out, f"ends in {out.suffix or 'nothing'}, expected {' or '.join(endings)}")
    return _of_file(source, out)


def plan_attack(source: Path, out: Path, *, ending: str) -> Plan:
    """Return what `servax attack` makes of a sound file or of a folder of them.

    Args:
        source: What there is.
        out: Folder to write; that of a folder keeps its structure.
        ending: Of what is written: ``.wav`` or ``.npy``.

    Raises:
        AudioError, PathError: As `plan_purification`.
    """
    if os.path.isdir(source):  # noqa: PTH112
        return _of_folder(source, out, SOUNDS, ending=ending)
    _check_file(source)
    _check_folder(source, out)
    return _of_file(source, out / _becomes(Path(source.name), ending))


def _of_file(source: Path, target: Path) -> Plan:
    plan = _checked([FileJob(str(source), str(target))])
    if plan.told:
        raise PathError(target, ITSELF)
    return plan


def _of_folder(source: Path, out: Path, endings: Sequence[str], ending: str = "") -> Plan:
    """Plan the files of a folder that end in one of `endings`.

    `ending` is that of the targets; by default each sound becomes ``.wav``, a log-Mel stays one.
    """
    if same_file(source, out):
        raise PathError(out, "is the folder of the sounds itself; give another one to write")
    _check_folder(source, out)
    found = files_below(source, apart=out)
    taken = [path for path in found.files if path.suffix.lower() in endings]
    lost = [path for path in found.files if _leads_nowhere(path)]
    jobs = [
        FileJob(str(path), str(out / _becomes(path.relative_to(source), ending or _ending(path))))
        for path in taken
    ]
    notes = unread(found, source, out, endings, {job.target for job in jobs})
    if not taken and not lost and not found.closed:
        raise no_sound(source, endings, found.files, *notes)
    others = [
        *(_failed(path, reason) for path, reason in found.closed),
        *(_failed(path, audio.missing(path)) for path in lost),
        *(Outcome(str(path), "", "not_sound") for path in sorted({*found.files} - {*taken, *lost})),
    ]
    return replace(_checked(jobs, others), notes=notes)


def _of_manifest(source: Path, out: Path) -> Plan:
    from servax.corpora import read_manifest

    if same_file(source.parent, out):
        raise PathError(out, "is the folder of the manifest itself; give another one to write")
    _check_folder(source, out)
    if same_file(source, out / MANIFEST):
        raise PathError(out / MANIFEST, "is the manifest itself; give another folder to write")
    jobs, told, rows = [], [], []
    for row in read_manifest(source, source.parent, with_files=False).utterances:
        # A name is whatever the manifest says; only below `out` may it become a file.
        name = "_".join(part for part in Path(row.utterance).parts if part not in ("/", ".."))
        target = str(out / f"{name.removesuffix('.wav')}.wav")
        end = None if row.end != row.end else row.end
        job = FileJob(str(source.parent / row.path), target, row.start, end)
        rows.append((row, target))
        if "\0" in row.path + row.utterance:
            reason = f"utterance {shown(row.utterance)} has a zero byte in its path or name"
            told.append(_failed(source, f"{reason}; take it out", job))
        else:
            jobs.append(job)
    table = out / MANIFEST
    sounds = {identity(Path(job.source)) for job in jobs} - {None}
    if identity(table) in sounds or _place(table) in {_place(job.target) for job in jobs}:
        raise PathError(table, "leads to one of the sounds; remove the link")
    return _checked(jobs, told, tuple(rows))


def _checked(
    jobs: Sequence[FileJob],
    others: Iterable[Outcome] = (),
    rows: tuple[tuple[Utterance, str], ...] = (),
) -> Plan:
    """Return a plan in which no job replaces a sound or what another one writes."""
    heard = {identity(Path(job.source)) for job in jobs} - {None}
    often = Counter(job.target for job in jobs)
    places = Counter(_place(job.target) for job in jobs)
    kept, told = [], list(others)
    for job in jobs:
        if identity(Path(job.target)) in heard:
            told.append(_failed(Path(job.target), ITSELF, job))
        elif often[job.target] > 1:
            reason = f"{often[job.target]} utterances would become it; name them differently"
            told.append(_failed(Path(job.target), reason, job))
        elif places[_place(job.target)] > 1:
            reason = f"leads to {_place(job.target)}, which another sound would become too"
            told.append(_failed(Path(job.target), f"{reason}; remove the link", job))
        else:
            kept.append(job)
    return Plan(tuple(kept), tuple(told), rows)


def _failed(path: Path, reason: str, job: FileJob | None = None) -> Outcome:
    job = job or FileJob(str(path), "")
    return Outcome(job.source, job.target, "failed", sentence=str(PathError(path, reason)))


def _check_file(source: Path) -> None:
    if not os.path.lexists(source):
        raise AudioError(source, "no such file or folder")
    if not source.is_file():
        audio.regular(source)  # it says what is wrong


def _check_folder(source: Path, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise PathError(out, f"is a file, expected a folder to write what becomes of {source}")


def _becomes(name: Path, ending: str) -> Path:
    """Return the name of what a file becomes: another one for each file."""
    plain = name.suffix.lower() == ending and Path(name.stem).suffix.lower() not in SOUNDS
    return name if plain or ending == "" else name.with_name(name.name + ending)


def _ending(path: Path) -> str:
    """Return the ending of what a file becomes in purification; of a log-Mel none is added."""
    return "" if path.suffix.lower() == LOGMEL else ".wav"


def _leads_nowhere(path: Path) -> bool:
    """Tell whether a name without an ending is a link to nothing: it may have been a folder."""
    gone = os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114  never raise
    return path.suffix == "" and gone


def _place(path: str | Path) -> str:
    """Return where a path leads, links or none; one that no system takes stays as it is."""
    try:
        return os.path.realpath(path)
    except ValueError:
        return str(path)


def write_manifest(plan: Plan, told: Iterable[Outcome], out: Path) -> None:
    """Write the table of what lies purified in `out`; of a row that failed there is none.

    Args:
        plan: What `plan_purification` made of a manifest.
        told: What became of it.
        out: Folder of the targets and of the new manifest.

    Raises:
        PathError: The table cannot be written.
    """
    there = {each.target for each in told if each.status in ("done", "skipped")}
    table = out / MANIFEST
    if not there and not os.path.exists(table):  # noqa: PTH110
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row, target in plan.rows:
        if target in there:
            told_of = (row.gender, row.session, row.text, row.utterance)
            writer.writerow([_listed(target, out), row.emotion, row.speaker, *told_of])
    write_whole(table, text.getvalue().encode())


def check_manifest(plan: Plan, out: Path) -> None:
    """Refuse to replace a table that is not of these utterances.

    Args:
        plan: What `plan_purification` made of a manifest.
        out: Folder of the targets and of the new manifest.

    Raises:
        PathError: The ``manifest.csv`` there has other columns, or names files that are no targets.
    """
    table = out / MANIFEST
    if not os.path.isfile(table):  # noqa: PTH113
        return
    known = {_listed(target, out) for _, target in plan.rows}
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            own = next(rows, None) == COLUMNS and all(row and row[0] in known for row in rows)
    except (OSError, ValueError, csv.Error):
        own = False
    if not own:
        reason = "is there, and is no table of these utterances; give another folder"
        raise PathError(table, f"{reason}, or add --overwrite to replace it")


def _listed(target: str, out: Path) -> str:
    """Return how the manifest in `out` names a target."""
    return Path(target).relative_to(out).as_posix()
