"""CREMA-D: 91 actors, 12 sentences, 6 emotions, acted; 7442 utterances at 16 kHz.

Cao, Cooper, Keutmann, Gur, Nenkova & Verma (2014), "CREMA-D: Crowd-sourced emotional multimodal
actors dataset", IEEE Transactions on Affective Computing 5(4), 377-390.

File names are ``AAAA_SSS_EEE_LL.wav``:

====  ==========  ===========================================================================
part  what        values
====  ==========  ===========================================================================
AAAA  actor       1001 to 1091; ``VideoDemographics.csv``, beside ``AudioWAV``, tells the sex
SSS   sentence    IEO TIE IOM IWW TAI MTI IWL ITH DFA ITS TSI WSI
EEE   emotion     ANG DIS FEA HAP SAD (1271 each), NEU (1087): what was acted, not what raters
                  heard
LL    intensity   LO MD HI (sentence IEO only), XX unspecified; one file has a single X
====  ==========  ===========================================================================

Known defect: ``1076_MTI_SAD_XX`` was published without sound and is left out, so that 7441 remain.
The repository keeps its sound in Git LFS: without ``git lfs pull`` every file is a pointer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from servax.corpora.description import Description, FileNames, Scan
from servax.errors import CorpusError

NAME = re.compile(
    r"(?P<speaker>10[0-9]{2})_(?P<text>IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI)"
    r"_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?:LO|MD|HI|XX?)"
)
EMOTIONS = {
    "ANG": ("angry", 1271),
    "DIS": ("disgusted", 1271),
    "FEA": ("fearful", 1271),
    "HAP": ("happy", 1271),
    "NEU": ("neutral", 1087),
    "SAD": ("sad", 1270),
}
DEMOGRAPHICS = "VideoDemographics.csv"
NAMES = FileNames(
    ("AudioWAV/*.wav", "*.wav"),
    "AAAA_SSS_EEE_LL.wav",
    NAME,
    EMOTIONS,
    passed_over=re.compile("1076_MTI_SAD_XX"),  # without sound
)


def scan(root: Path) -> Scan:
    """Read ``AudioWAV/*.wav`` below `root`, or ``*.wav`` in it.

    Raises:
        CorpusError: ``VideoDemographics.csv`` is there but is not the published table.
    """
    table = root / DEMOGRAPHICS
    if not table.is_file():
        return NAMES(root)
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False)
        sexes = rows.set_index("ActorID")["Sex"]
        genders = {
            str(actor): {"Male": "male", "Female": "female"}[sex] for actor, sex in sexes.items()
        }
    except (KeyError, ValueError):
        raise CorpusError(
            f"{table}: is not the published table, expected columns ActorID and Sex "
            f"(Male or Female)."
        ) from None
    return replace(NAMES, genders=genders)(root)


DESCRIPTION = Description(
    name="cremad",
    title="Crowd-sourced Emotional Multimodal Actors Dataset",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="Open Database License 1.0 (contents: Database Contents License 1.0)",
    reference="Cao et al. (2014), IEEE Transactions on Affective Computing 5(4), 377-390",
    language="English (North American)",
    counts=NAMES.counts,
    speakers=tuple(str(actor) for actor in range(1001, 1092)),
    scan=scan,
    by_hand="clone https://github.com/CheyneyComputerScience/CREMA-D with Git LFS installed",
)
