"""The examples of the page, as espeak-ng speaks them.

``python tests/service/page_examples.py`` writes them anew.
"""

from __future__ import annotations

import numpy as np
import soxr

from servax import audio
from servax.corpora.synthetic import PROSODY, SENTENCES, speak
from servax.service.app import PAGE

RATE = 16_000
VOICE = "m1"
"""A voice of the synthetic corpus that no packaged network has heard in training."""
EXAMPLES = {"angry": 5, "happy": 1, "neutral": 4, "sad": 3}
"""Label and sentence: a different one each."""


def spoken(label: str) -> np.ndarray:
    """Return the sentence (T,) of a label, with the mean prosody of that label."""
    prosody = PROSODY[label]
    line = {name: round(getattr(prosody, name)[0]) for name in ("rate", "pitch", "pitch_range")}
    ((samples, rate),) = speak(f"en+{VOICE}", [{"text": SENTENCES[EXAMPLES[label]], **line}])
    sound = soxr.resample(samples.astype(np.float32), rate, RATE, quality="HQ")
    return sound * np.float32(10 ** (prosody.level_db[0] / 20) / np.abs(sound).max())


if __name__ == "__main__":
    for each in EXAMPLES:
        audio.write(PAGE / f"{each}.flac", spoken(each), RATE)
