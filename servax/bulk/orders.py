"""Which file becomes which: the orders of one sound, of a folder or of a manifest."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servax import audio
from servax.corpora import load
from servax.corpora.manifest import is_manifest
from servax.errors import AudioError, PathError, unwritable

SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
LOGMEL = ".npy"
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Order:
    """One sound, or one log-Mel, to purify."""

    source: str
    """A sound file, or the log-Mel (M, F) on [0, 1] of one, as ``.npy``."""
    target: str
    """Where it goes: ``.wav`` or ``.flac``; ``.npy`` for a log-Mel."""
    start: float = 0.0
    """First moment wanted, in seconds."""
    end: float | None = None
    """Moment after the last one, in seconds; none is the end of the file."""


def orders_of(source: Path, out: Path) -> list[Order]:
    """Return what is to be done, in the order of the names.

    Args:
        source: A sound file, a folder of them, or a CSV or Parquet manifest.
        out: A file for a file, else a folder; that of a folder keeps its structure.

    Raises:
        AudioError: There is nothing of that name, or no sound in it.
        CorpusError: The manifest breaks a rule.
        PathError: `out` is the source or would replace one of the sounds, or its ending is not
            that of what it would hold.
    """
    if source.is_dir():
        orders = _of_folder(source, out)
    elif not source.is_file():
        raise AudioError(source, "no such file or folder")
    else:
        orders = _of_manifest(source, out) if is_manifest(str(source)) else [_of_file(source, out)]
    heard = {Path(order.source).resolve() for order in orders}
    for order in orders:
        if Path(order.target).resolve() in heard:
            raise PathError(order.target, "is the sound itself; give another place to write")
    return orders


def sounds_below(
    folder: Path, endings: Sequence[str] = SOUNDS, *, apart: Path | None = None
) -> list[Path]:
    """Return the files of a folder and those below it that end in one of `endings`, by name.

    Args:
        folder: Where to look.
        endings: In lower case.
        apart: A folder whose files do not count, wherever it is.

    Raises:
        AudioError: There is none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in endings and p.is_file())
    if apart is not None:
        files = [path for path in files if not path.resolve().is_relative_to(apart.resolve())]
    if not files:
        raise AudioError(folder, f"holds no sound file ({', '.join(endings)})")
    return files


def write_manifest(source: Path, orders: Sequence[Order], out: Path) -> Path:
    """Write the manifest of what was purified: the rows of `source` with their new paths.

    A row whose sound failed is left out.

    Args:
        source: The manifest.
        orders: What `orders_of` made of it, row by row.
        out: Folder of the targets and of the new manifest.

    Raises:
        PathError: The table cannot be written.
    """
    rows = load(source).utterances
    table = out / MANIFEST
    part = table.with_name(f".{table.name}.part")
    columns = ["path", "label", "speaker", "gender", "session", "text", "utterance"]
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row, order in zip(rows.to_dict("records"), orders, strict=True):
                if not Path(order.target).is_file():
                    continue
                path = Path(order.target).relative_to(out).as_posix()
                told = [str(row.get(name, "") or "") for name in columns[1:]]
                writer.writerow([path, *told])
        part.replace(table)
    except OSError as error:
        raise PathError(table, unwritable(error)) from None
    return table


def _of_file(source: Path, out: Path) -> Order:
    if out.is_dir():
        raise PathError(out, f"is a folder; give a file, such as {out / source.name}")
    endings = (LOGMEL,) if source.suffix.lower() == LOGMEL else tuple(audio.WRITABLE)
    if out.suffix.lower() not in endings:
        raise PathError(out, f"ends in {out.suffix or 'nothing'}, expected {' or '.join(endings)}")
    return Order(str(source), str(out))


def _of_folder(source: Path, out: Path) -> list[Order]:
    if out.exists() and source.samefile(out):
        raise PathError(out, "is the folder of the sounds itself; give another one to write")
    files = sounds_below(source, (*SOUNDS, LOGMEL), apart=out)
    plain = [path.relative_to(source).with_suffix(_ending(path)) for path in files]
    often = Counter(plain)
    return [
        # Two sounds of one name but for the ending keep theirs: a.mp3 becomes a.mp3.wav.
        Order(str(path), str(out / (name if often[name] == 1 else _whole(path, source))))
        for path, name in zip(files, plain, strict=True)
    ]


def _of_manifest(source: Path, out: Path) -> list[Order]:
    if out.exists() and source.parent.samefile(out):
        raise PathError(out, "is the folder of the manifest itself; give another one to write")
    corpus = load(source)
    orders = []
    for row in corpus.utterances.to_dict("records"):
        # A name is whatever the manifest says; only below `out` may it become a file.
        name = "_".join(
            part for part in Path(str(row["utterance"])).parts if part not in ("/", "..")
        )
        end = float(row["end"])
        orders.append(
            Order(
                str(corpus.root / str(row["path"])),
                str(out / f"{name.removesuffix('.wav')}.wav"),
                float(row["start"]),
                None if end != end else end,
            )
        )
    often = Counter(order.target for order in orders)
    twice = [target for target, count in often.items() if count > 1]
    if twice:
        raise PathError(source, f"has two utterances that would both become {twice[0]}")
    return orders


def _whole(path: Path, source: Path) -> Path:
    relative = path.relative_to(source)
    return relative.with_name(relative.name + _ending(path))


def _ending(path: Path) -> str:
    return LOGMEL if path.suffix.lower() == LOGMEL else ".wav"
