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

import csv
import re
from functools import partial
from pathlib import Path

from servax.corpora.description import Description, Scan, Utterance
from servax.corpora.filenames import scan_names
from servax.errors import CorpusError

__all__ = ["DESCRIPTION", "scan"]

NAME = re.compile(
    r"(10[0-9]{2})_(IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI)"
    r"_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX?)"
)
EMOTION = {
    "ANG": "angry",
    "DIS": "disgusted",
    "FEA": "fearful",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
WITHOUT_SOUND = "1076_MTI_SAD_XX"
DEMOGRAPHICS = "VideoDemographics.csv"


def scan(root: Path) -> Scan:
    """Read ``AudioWAV/*.wav`` below `root`, or ``*.wav`` in it.

    Raises:
        CorpusError: ``VideoDemographics.csv`` is there but is not the published table.
    """
    return scan_names(
        root,
        ("AudioWAV/*.wav", "*.wav"),
        partial(_read, genders=_genders(root)),
        grammar="AAAA_SSS_EEE_LL.wav",
        skip=lambda stem: stem == WITHOUT_SOUND,
    )


def _read(stem: str, path: str, *, genders: dict[str, str]) -> Utterance | None:
    """Return the utterance of a name, or None when it does not follow the grammar."""
    match = NAME.fullmatch(stem)
    if match is None:
        return None
    actor, sentence, emotion, _ = match.groups()
    return Utterance(
        utterance=stem,
        path=path,
        emotion=EMOTION[emotion],
        speaker=actor,
        gender=genders.get(actor, ""),
        text=sentence,
    )


def _genders(root: Path) -> dict[str, str]:
    """Return actor → gender from the published table, or nothing when it is not there."""
    table = root / DEMOGRAPHICS
    if not table.is_file():
        return {}
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        return {row["ActorID"]: {"Male": "male", "Female": "female"}[row["Sex"]] for row in rows}
    except (KeyError, UnicodeDecodeError, csv.Error):
        raise CorpusError(
            f"{table}: is not the published table, expected columns ActorID and Sex "
            f"(Male or Female)."
        ) from None


DESCRIPTION = Description(
    name="cremad",
    title="Crowd-sourced Emotional Multimodal Actors Dataset",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="Open Database License 1.0 (contents: Database Contents License 1.0)",
    reference="Cao et al. (2014), IEEE Transactions on Affective Computing 5(4), 377-390",
    language="English (North American)",
    counts={
        "angry": 1271,
        "disgusted": 1271,
        "fearful": 1271,
        "happy": 1271,
        "neutral": 1087,
        "sad": 1270,
    },
    speakers=tuple(str(actor) for actor in range(1001, 1092)),
    scan=scan,
    by_hand="clone https://github.com/CheyneyComputerScience/CREMA-D with Git LFS installed",
)
