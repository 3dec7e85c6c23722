"""RAVDESS: 24 actors, 2 sentences, 8 emotions, acted; 1440 spoken utterances.

Livingstone & Russo (2018), "The Ryerson Audio-Visual Database of Emotional Speech and Song",
PLoS ONE 13(5): e0196391; Zenodo record 1188976, file ``Audio_Speech_Actors_01-24.zip`` (48 kHz).

File names are seven numbers, ``MM-VV-EE-II-SS-RR-AA.wav``:

====  ===========  ==========================================================================
part  what         values
====  ===========  ==========================================================================
MM    modality     03 sound alone (01 and 02 are video)
VV    channel      01 speech, 02 song
EE    emotion      01 neutral 02 calm 03 happy 04 sad 05 angry 06 fearful 07 disgusted
                   08 surprised
II    intensity    01 normal, 02 strong (neutral is never strong: 96 instead of 192)
SS    statement    01 "Kids are talking by the door", 02 "Dogs are sitting by the door"
RR    repetition   01, 02
AA    actor        01 to 24, odd numbers are male
====  ===========  ==========================================================================

Known defect: ``03-01-03-01-02-01-07`` and ``03-01-03-01-02-02-07`` are the same recording. The
recordings are very quiet: level them before any fixed decibel window.
"""

from __future__ import annotations

import re

from servax.corpora.description import Description, Download, FileNames

NAME = re.compile(
    r"03-01-(?P<emotion>0[1-8])-0[12]-(?P<text>0[12])-0[12]-(?P<speaker>0[1-9]|1[0-9]|2[0-4])"
)
SONG = re.compile(r"03-02-\d\d-\d\d-\d\d-\d\d-\d\d")
GENDER = {f"{actor:02d}": "male" if actor % 2 else "female" for actor in range(1, 25)}
EMOTIONS = {
    "01": ("neutral", 96),
    "02": ("calm", 192),
    "03": ("happy", 192),
    "04": ("sad", 192),
    "05": ("angry", 192),
    "06": ("fearful", 192),
    "07": ("disgusted", 192),
    "08": ("surprised", 192),
}
NAMES = FileNames(
    ("Actor_*/*.wav", "*/Actor_*/*.wav"),
    "MM-VV-EE-II-SS-RR-AA.wav",
    NAME,
    EMOTIONS,
    GENDER,
    passed_over=SONG,
)

DESCRIPTION = Description(
    name="ravdess",
    title="Ryerson Audio-Visual Database of Emotional Speech and Song (speech)",
    homepage="https://zenodo.org/records/1188976",
    licence="CC BY-NC-SA 4.0",
    reference="Livingstone & Russo (2018), PLoS ONE 13(5): e0196391",
    language="English (North American)",
    counts=NAMES.counts,
    speakers=tuple(GENDER),
    scan=NAMES,
    known_duplicates=(frozenset({"03-01-03-01-02-01-07", "03-01-03-01-02-02-07"}),),
    download=Download(
        url="https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip",
        algorithm="md5",
        checksum="bc696df654c87fed845eb13823edef8a",
        bytes=208_468_073,
    ),
    by_hand="download Audio_Speech_Actors_01-24.zip from Zenodo record 1188976 and unpack it",
)
