"""FSDD: 6 speakers say the digits 0 to 9, 50 times each; 3000 utterances at 8 kHz.

Jakobovski, "Free Spoken Digit Dataset", https://github.com/Jakobovski/free-spoken-digit-dataset.
No emotions: a small, quick stand-in for any speech classifier.

File names are ``<digit>_<speaker>_<index>.wav`` in the folder ``recordings``:

=======  ====================================================================================
part     values
=======  ====================================================================================
digit    0 to 9, the label
speaker  george jackson lucas nicolas theo yweweler
index    0 to 49; 0 to 4 are the official test set, 5 to 49 the training set
=======  ====================================================================================

The official split has every speaker on both sides: ``corpus.folds("official")``, or
`official_split` for its two sets as they were published.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from servax.corpora.corpus import Corpus
from servax.corpora.description import Description, Scan, Utterance
from servax.corpora.filenames import scan_names
from servax.errors import CorpusError

__all__ = ["DESCRIPTION", "official_split", "scan"]

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
NAME = re.compile(rf"([0-9])_({'|'.join(SPEAKERS)})_([0-9]|[1-4][0-9])")
TEST_INDICES = range(5)


def scan(root: Path) -> Scan:
    """Read ``recordings/*.wav`` below `root`, or ``*.wav`` in it."""
    return scan_names(
        root,
        ("recordings/*.wav", "*.wav"),
        _read,
        grammar="digit_speaker_index.wav",
    )


def _read(stem: str, path: str) -> Utterance | None:
    """Return the utterance of a name, or None when it does not follow the grammar."""
    match = NAME.fullmatch(stem)
    if match is None:
        return None
    digit, speaker, _ = match.groups()
    return Utterance(
        utterance=stem, path=path, emotion=digit, speaker=speaker, gender="male", text=digit
    )


def _is_test(utterance: str) -> bool:
    """Tell whether an utterance is of the official test set."""
    return int(utterance.rsplit("_", 1)[-1]) in TEST_INDICES


def official_split(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """Return the official training and test sets; they share their speakers.

    Raises:
        CorpusError: `corpus` is not FSDD.
    """
    if corpus.name != DESCRIPTION.name:
        raise CorpusError(f"{corpus.name} has no official split, only {DESCRIPTION.name} has one.")
    test = np.array([_is_test(name) for name in corpus.utterances["utterance"]])
    return corpus.subset(~test), corpus.subset(test)


DESCRIPTION = Description(
    name="fsdd",
    title="Free Spoken Digit Dataset",
    homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    licence="CC BY-SA 4.0",
    reference="Jakobovski et al., Free Spoken Digit Dataset",
    language="English",
    counts={str(digit): 300 for digit in range(10)},
    speakers=SPEAKERS,
    scan=scan,
    schemes=("native", "speaker"),
    official_test=_is_test,
    by_hand="clone https://github.com/Jakobovski/free-spoken-digit-dataset, "
    "which holds the folder recordings",
)
