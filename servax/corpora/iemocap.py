"""IEMOCAP: 10 actors in 5 dialogue sessions, scripted and improvised; 16 kHz.

Busso, Bulut, Lee, Kazemzadeh, Mower, Kim, Chang, Lee & Narayanan (2008), "IEMOCAP: Interactive
emotional dyadic motion capture database", Language Resources and Evaluation 42(4), 335-359. The
corpus is given out on request only: it must be fetched by hand.

Layout: ``Session{1..5}/sentences/wav/<dialogue>/<utterance>.wav``; labels, one line per utterance,
tab separated, in ``Session{i}/dialog/EmoEvaluation/<dialogue>.txt``::

    [6.2901 - 8.2357]   Ses01F_impro01_F000   neu   [2.5000, 2.5000, 2.5000]

Utterance names:

==========  =================================================================================
part        values
==========  =================================================================================
Ses01F      session 01 to 05, and who wears the motion markers (F or M): **not** the speaker
impro01     dialogue: ``improNN`` improvised or ``scriptNN_N`` scripted, sometimes with a or b
F000        **speaker** (F or M of this session) and running number
==========  =================================================================================

The trap: several well-known loaders take the dialogue prefix (``Ses01F``) as speaker. That is
wrong for 2750 of the 5531 four-class utterances, because both speakers talk in every dialogue, and
puts speakers on both sides of a split. We take session and last letter: ``1F``, ``1M``, … ``5M``.

Ten folds (`Corpus.folds` with ``"speaker"``): test one speaker, validate on the other speaker of
that session, train on the eight others. Scheme ``four`` counts excited as happy: 5531 utterances,
angry 1103, happy 595 + 1041, neutral 1708, sad 1084. The 2507 turns on which raters did not agree
(``xxx``) carry no label and are not utterances here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from servax.corpora.description import Description, Scan, Utterance

LINE = re.compile(r"\[\d+\.\d+ - \d+\.\d+\]\t(\S+)\t([a-z]{3})\t\[.*\]\s*")
NAME = re.compile(r"(Ses0([1-5])[FM]_(?:impro\d\d|script\d\d_\d)[ab]?)_([FM])\d{3}")
EMOTIONS = {
    "ang": ("angry", 1103),
    "dis": ("disgusted", 2),
    "exc": ("excited", 1041),
    "fea": ("fearful", 40),
    "fru": ("frustrated", 1849),
    "hap": ("happy", 595),
    "neu": ("neutral", 1708),
    "oth": ("other", 3),
    "sad": ("sad", 1084),
    "sur": ("surprised", 107),
}
"""Letters of the label files → native label, and how many utterances have it."""
NO_AGREEMENT = "xxx"


def scan(root: Path) -> Scan:
    """Read ``Session{1..5}`` below `root` or one folder deeper (``IEMOCAP_full_release``)."""
    holders = (f for f in (root, *sorted(root.glob("*"))) if (f / "Session1").is_dir())
    base = next(holders, root)
    utterances: list[Utterance] = []
    left_out: list[str] = []
    seen: set[str] = set()
    for file, line in _label_lines(base):
        found = _utterance(root, base, file, line)
        if isinstance(found, str):
            left_out.append(found)
        elif found is not None and found.utterance in seen:
            left_out.append(f"{found.utterance} is labelled twice, the second label is left out.")
        elif found is not None:
            seen.add(found.utterance)
            utterances.append(found)
    return Scan(tuple(utterances), tuple(left_out))


def _label_lines(base: Path) -> Iterator[tuple[Path, str]]:
    """Yield every label line with its file; lists of single raters lie in subfolders, unread."""
    for session in range(1, 6):
        folder = base / f"Session{session}" / "dialog" / "EmoEvaluation"
        for file in sorted(folder.glob("*.txt")):
            if file.is_file() and not file.name.startswith("."):
                for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                    if line.startswith("["):
                        yield file, line


def _utterance(root: Path, base: Path, file: Path, line: str) -> Utterance | str | None:
    """Return the utterance of a label line, a sentence why it is left out, or None for ``xxx``."""
    match = LINE.fullmatch(line)
    if match is None:
        return f"{file.name}: {line!r} is not a label line, it is left out."
    name, letters = match.groups()
    parts = NAME.fullmatch(name)
    if parts is None or parts[1] != file.stem or f"Session{parts[2]}" != file.parts[-4]:
        return f"{file.name}: {name} is not an utterance of this dialogue, it is left out."
    if letters == NO_AGREEMENT:
        return None
    if letters not in EMOTIONS:
        return f"{file.name}: {name} has the unknown label {letters!r}, it is left out."
    dialogue, session, letter = parts.groups()
    sound = base / f"Session{session}" / "sentences" / "wav" / dialogue / f"{name}.wav"
    if not sound.is_file():
        return f"{sound.relative_to(root).as_posix()} does not exist, {name} is left out."
    return Utterance(
        utterance=name,
        path=sound.relative_to(root).as_posix(),
        emotion=EMOTIONS[letters][0],
        speaker=f"{session}{letter}",
        gender="female" if letter == "F" else "male",
        session=session,
    )


DESCRIPTION = Description(
    name="iemocap",
    title="Interactive Emotional Dyadic Motion Capture Database",
    homepage="https://sail.usc.edu/iemocap/",
    licence="on request, for research (SAIL, University of Southern California)",
    reference="Busso et al. (2008), Language Resources and Evaluation 42(4), 335-359",
    language="English (North American)",
    counts=dict(EMOTIONS.values()),
    speakers=tuple(f"{session}{letter}" for session in range(1, 6) for letter in "FM"),
    scan=scan,
    by_hand="ask for it at https://sail.usc.edu/iemocap/ and unpack the folders Session1 to 5",
)
