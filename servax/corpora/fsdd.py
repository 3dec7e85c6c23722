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

The official split, ``corpus.folds("official")``, has every speaker on both sides.
"""

from __future__ import annotations

import re

from servax.corpora.description import Description, FileNames

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
NAME = re.compile(
    rf"(?P<emotion>(?P<text>[0-9]))_(?P<speaker>{'|'.join(SPEAKERS)})_(?:[0-9]|[1-4][0-9])"
)
NAMES = FileNames(
    ("recordings/*.wav", "*.wav"),
    "digit_speaker_index.wav",
    NAME,
    emotions={digit: (digit, 300) for digit in "0123456789"},
    genders=dict.fromkeys(SPEAKERS, "male"),
)
TEST_INDICES = range(5)


def _is_test(utterance: str) -> bool:
    """Tell whether an utterance is of the official test set."""
    return int(utterance.rsplit("_", 1)[-1]) in TEST_INDICES


DESCRIPTION = Description(
    name="fsdd",
    title="Free Spoken Digit Dataset",
    homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
    licence="CC BY-SA 4.0",
    reference="Jakobovski et al., Free Spoken Digit Dataset",
    language="English",
    counts=NAMES.counts,
    speakers=SPEAKERS,
    scan=NAMES,
    schemes=("native", "speaker"),
    official_test=_is_test,
    by_hand="clone https://github.com/Jakobovski/free-spoken-digit-dataset, "
    "which holds the folder recordings",
)
