"""EmoDB: 10 actors, 10 German sentences, 7 emotions, acted; 535 utterances at 16 kHz.

Burkhardt, Paeschke, Rolfes, Sendlmeier & Weiss (2005), "A database of German emotional speech",
Interspeech 2005, 1517-1520. The 535 are those that listeners recognised in at least 80 % of cases.

File names are ``SSTTTEv.wav``:

====  =========  ============================================================================
part  what       values
====  =========  ============================================================================
SS    speaker    03 08 09 10 11 12 13 14 15 16 (male: 03 10 11 12 15)
TTT   sentence   a01 a02 a04 a05 a07 b01 b02 b03 b09 b10
E     emotion    W angry (Wut), L bored (Langeweile), E disgusted (Ekel), A fearful (Angst),
                 F happy (Freude), T sad (Trauer), N neutral
v     version    a, b, c, …: takes of the same sentence and emotion, some are missing
====  =========  ============================================================================
"""

from __future__ import annotations

import re

from servax.corpora.description import Description, FileNames

GENDER = dict.fromkeys(("03", "10", "11", "12", "15"), "male") | dict.fromkeys(
    ("08", "09", "13", "14", "16"), "female"
)
NAME = re.compile(r"(?P<speaker>03|08|09|1[0-6])(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]")
EMOTIONS = {
    "W": ("angry", 127),
    "L": ("bored", 81),
    "E": ("disgusted", 46),
    "A": ("fearful", 69),
    "F": ("happy", 71),
    "N": ("neutral", 79),
    "T": ("sad", 62),
}
NAMES = FileNames(("wav/*.wav", "*.wav"), "SSTTTEv.wav", NAME, EMOTIONS, GENDER)

DESCRIPTION = Description(
    name="emodb",
    title="Berlin Database of Emotional Speech",
    homepage="http://emodb.bilderbar.info",
    licence="free for research",
    reference="Burkhardt et al. (2005), Interspeech, 1517-1520",
    language="German",
    counts=NAMES.counts,
    speakers=tuple(sorted(GENDER)),
    scan=NAMES,
    by_hand="download the archive from http://emodb.bilderbar.info and unpack its folder wav",
)
