"""Make a folder of recordings a corpus: write its manifest, check it, see its folds.

    python examples/add_corpus.py recordings -o mine.csv
    servax corpus verify mine.csv
    servax corpus folds mine.csv --groups 3
    servax train recogniser mine.csv --scheme native --groups 3 -o runs/mine

The recordings lie in one folder for each speaker and are called by what is felt:
`recordings/anna/angry_01.wav`. Other grammars change `row` alone. From then on a manifest stands
wherever the name of a corpus does: in every command, in recipes, in Python.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import servax as sx

SOUNDS = (".wav", ".flac", ".ogg", ".mp3")


def row(file: Path) -> dict[str, str]:
    """Return what the path of a recording tells; the manifest's page names more columns."""
    return {
        "path": str(file.resolve()),
        "label": file.stem.partition("_")[0],
        "speaker": file.parent.name,
    }


def main() -> None:
    """Write the manifest and print what servax makes of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recordings", type=Path, help="folder of folders, one for each speaker")
    parser.add_argument("-o", "--out", type=Path, default=Path("mine.csv"), help="the manifest")
    parser.add_argument("--groups", type=int, default=3, help="into how many the speakers go")
    given = parser.parse_args()

    files = sorted(f for f in given.recordings.rglob("*") if f.suffix.lower() in SOUNDS)
    table = pd.DataFrame([row(file) for file in files])
    table.to_csv(given.out, index=False)

    corpus = sx.corpora.load(given.out, scheme="native")
    print(f"{len(corpus)} utterances, {len(corpus.speakers)} speakers, {', '.join(corpus.labels)}")
    for problem in corpus.verify().problems:
        print(problem)
    for fold in corpus.folds(given.groups):  # a speaker in two parts raises
        print(f"tests {', '.join(fold.test.speakers)}; trains on {len(fold.train)} utterances")


if __name__ == "__main__":
    main()
