"""Corpora whose labels stand in the names of their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from servax.corpora.description import Scan, Utterance

__all__ = ["scan_names"]


def scan_names(
    root: Path,
    patterns: Sequence[str],
    read: Callable[[str, str], Utterance | None],
    *,
    grammar: str,
    skip: Callable[[str], bool] = lambda stem: False,
) -> Scan:
    """Read every file name that the first fruitful pattern finds, in sorted order.

    Args:
        root: Folder of the corpus.
        patterns: Glob patterns, tried in turn.
        read: Makes an utterance from a name without suffix and a path below `root`; None when the
            name does not follow the grammar.
        grammar: Shape of the names, for the sentence on those left out.
        skip: Tells names that are passed over without a word.
    """
    utterances: list[Utterance] = []
    left_out: list[str] = []
    files = next((found for p in patterns if (found := sorted(root.glob(p)))), [])
    for file in files:
        if file.name.startswith(".") or skip(file.stem):  # ._x.wav is a file manager's leftover
            continue
        path = file.relative_to(root).as_posix()
        shown = path.encode("utf-8", "backslashreplace").decode()
        if shown != path:  # tables and splits are kept in UTF-8
            left_out.append(f"{shown} has a name that is not UTF-8, it is left out.")
            continue
        utterance = read(file.stem, path)
        if utterance is None:
            left_out.append(f"{path} does not follow {grammar}, it is left out.")
        else:
            utterances.append(utterance)
    return Scan(tuple(utterances), tuple(left_out))
