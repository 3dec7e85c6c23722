"""nEMO: 9 actors, 90 Polish sentences, 6 emotions, acted; 4481 utterances at 24 kHz.

Christop (2024), "nEMO: Dataset of emotional speech in Polish", LREC-COLING 2024.

File names are ``<speaker>_<emotion>_<sentence>.wav`` in the folder ``samples``:

=========  ==================================================================================
part       values
=========  ==================================================================================
speaker    EB0 IC0 KD0 MK0 (female), KS0 MP0 SM0 TP0 WR0 (male)
emotion    anger fear happiness neutral sadness surprised
sentence   1 to 90; not every speaker has every sentence in every emotion
=========  ==================================================================================

``data.tsv`` repeats this with texts and ages. Its speaker column has leading blanks, so the names
of the files are what we read.
"""

from __future__ import annotations

import re

from servax.corpora.description import Description, FileNames

GENDER = dict.fromkeys(("EB0", "IC0", "KD0", "MK0"), "female") | dict.fromkeys(
    ("KS0", "MP0", "SM0", "TP0", "WR0"), "male"
)
EMOTIONS = {
    "anger": ("angry", 749),
    "fear": ("fearful", 736),
    "happiness": ("happy", 749),
    "neutral": ("neutral", 809),
    "sadness": ("sad", 769),
    "surprised": ("surprised", 669),
}
NAME = re.compile(
    rf"(?P<speaker>{'|'.join(GENDER)})_(?P<emotion>{'|'.join(EMOTIONS)})_(?P<text>[1-9][0-9]?)"
)
NAMES = FileNames(
    ("samples/*.wav", "*.wav"), "speaker_emotion_sentence.wav", NAME, EMOTIONS, GENDER
)

DESCRIPTION = Description(
    name="nemo",
    title="nEMO: Dataset of Emotional Speech in Polish",
    homepage="https://github.com/amu-cai/nEMO",
    licence="CC BY-NC-SA 4.0",
    reference="Christop (2024), LREC-COLING",
    language="Polish",
    counts=NAMES.counts,
    speakers=tuple(sorted(GENDER)),
    scan=NAMES,
    by_hand="clone https://github.com/amu-cai/nEMO, which holds the folder samples",
)
