"""Writes a tree of the shape of IEMOCAP: its counts, names and label files, with noise for speech.

    python tests/corpora/iemocap_shape.py FOLDER --seconds 4.5

The corpus is given out on request only. With this tree a licence holder's first hour is tried
before they have it: 10,039 turns of ten speakers, 7,532 of them labelled.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile

from servax.corpora import describe

RATE = 16_000
UNLABELLED = 2_507
LETTERS = {
    "angry": "ang",
    "disgusted": "dis",
    "excited": "exc",
    "fearful": "fea",
    "frustrated": "fru",
    "happy": "hap",
    "neutral": "neu",
    "other": "oth",
    "sad": "sad",
    "surprised": "sur",
}
DIALOGUES = [f"impro{number:02d}" for number in range(1, 9)]
DIALOGUES += [f"script{number:02d}_{part}" for number in (1, 2, 3) for part in (1, 2)]


def write_tree(root: Path, *, seconds: float, seed: int = 0) -> int:
    """Write the tree below a folder and return how many turns it has.

    Args:
        root: The folder that `servax corpus verify iemocap --root` is given.
        seconds: Mean length of a turn; lengths are between half and one and a half of it.
        seed: Draws who says what, where, for how long.
    """
    draws = np.random.default_rng(seed)
    labels = [
        LETTERS[name] for name, count in describe("iemocap").counts.items() for _ in range(count)
    ]
    labels += ["xxx"] * UNLABELLED
    draws.shuffle(labels)
    lines: dict[tuple[int, str], list[str]] = {}
    for number, label in enumerate(labels):
        session, marker = 1 + number % 5, "FM"[number // 5 % 2]
        speaker = "FM"[number // 10 % 2]
        dialogue = DIALOGUES[int(draws.integers(len(DIALOGUES)))]
        name = f"Ses0{session}{marker}_{dialogue}"
        told = lines.setdefault((session, name), [])
        turn = f"{name}_{speaker}{len(told):03d}"
        told.append(f"[6.2901 - 8.2357]\t{turn}\t{label}\t[2.5000, 2.5000, 2.5000]\n")
        place = root / f"Session{session}" / "sentences" / "wav" / name
        place.mkdir(parents=True, exist_ok=True)
        length = round(RATE * seconds * draws.uniform(0.5, 1.5))
        noise = draws.integers(-3_000, 3_000, length, dtype=np.int16)
        soundfile.write(place / f"{turn}.wav", noise, RATE)
    for (session, name), told in lines.items():
        folder = root / f"Session{session}" / "dialog" / "EmoEvaluation"
        folder.mkdir(parents=True, exist_ok=True)
        header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        (folder / f"{name}.txt").write_text(header + "".join(told), encoding="utf-8")
    return len(labels)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=4.5)
    given = parser.parse_args()
    sys.stdout.write(f"{write_tree(given.folder, seconds=given.seconds)} turns\n")
