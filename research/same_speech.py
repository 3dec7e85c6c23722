"""Is it still the same speech behind each defence? What an audit measures, the words and the voice.

    pip install 'servax[baselines,quality]' pocketsphinx
    pip install --no-deps resemblyzer webrtcvad-wheels
    python research/same_speech.py DEFENCE... --utterances 40

leaves results/same_speech/clean.csv, a row per defence and utterance of group 1 of RAVDESS. A
defence whose rows are there is not measured again; DEFENCE is as for `servax audit --defences`.
Beside the measures of `servax.evaluation.distortion` stand:

- `word_errors`: words that pocketsphinx gets wrong, over the six that were said. Its US English
  models come with it; they were not made for acted speech, so read the errors beside those of the
  sound as it was (`undefended`).
- `shift_db`: how far what comes of a copy that begins 10 ms later lies below the sound, in dB; a
  defence that draws noise draws it anew for the copy.
- `same_voice`: cosine of the speaker embeddings (Resemblyzer, GE2E, Wan et al. 2018) of the clean
  and the changed sound.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pocketsphinx import Decoder
from resemblyzer import VoiceEncoder
from torch import Tensor, nn
from torch.nn.functional import pad

from servax.audit.sounds import of_the_class
from servax.corpora import Selection
from servax.evaluation.dataset import gather
from servax.evaluation.distortion import ANOTHER, available, measured, signal_to_noise_ratio
from servax.evaluation.options import defended
from servax.evaluation.systems import System
from servax.files import write_whole

RESULTS = Path("results/same_speech/clean.csv")
LABELS = ("angry", "happy", "neutral", "sad")
SAID = {"01": "kids are talking by the door", "02": "dogs are sitting by the door"}
"""By the fifth number of a file's name."""
LOUD = 0.7
"""Peak of what the recogniser of words hears; RAVDESS is very quiet."""
SHIFT = 160
"""Samples of 10 ms."""


def word_errors(said: str, heard: str) -> float:
    """Return the word error rate: insertions, deletions and substitutions over words said."""
    wanted, row = said.split(), list(range(len(heard.split()) + 1))
    for i, word in enumerate(wanted, start=1):
        before, row = row, [i]
        for j, found in enumerate(heard.split(), start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != found)))
    return row[-1] / len(wanted)


def words(decoder: Decoder, sound: np.ndarray) -> str:
    """Return what is understood of a sound at 16 kHz (T,)."""
    loud = LOUD * sound / max(float(np.abs(sound).max()), 1e-9)
    decoder.start_utt()
    decoder.process_raw((loud * 32_767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    return decoder.hyp().hypstr if decoder.hyp() else ""


def shifted_db(front: nn.Module, x: Tensor, made: Tensor) -> Tensor:
    """Return how far below sounds (B, T) a shift changes what is made of them, in dB (B,)."""
    later = front(pad(x, (SHIFT, 0)))[:, SHIFT:]
    return signal_to_noise_ratio(made, later)


@torch.no_grad()
def main() -> None:
    """Measure the defences that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("defences", nargs="+")
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--heard", type=int, default=16, help="of how many words and voice are")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    # Nothing is asked of a model: this one says what it would hear.
    system = System(name="none", model=nn.Flatten(), inputs="waveform", labels=LABELS, seconds=4.0)
    system, heard = gather(system, Selection(corpus="ravdess", utterances=asked.utterances))
    x, files = heard.x, [Path(path).stem for _, path, *_ in heard.corpus.stretches]
    decoder, encoder = (
        Decoder(samprate=16_000, loglevel="FATAL"),
        VoiceEncoder("cpu", verbose=False),
    )
    voices = [encoder.embed_utterance(each) for each in x[: asked.heard].numpy()]
    done = pd.read_csv(RESULTS) if RESULTS.is_file() else pd.DataFrame({"defence": []})
    other = [there for _, there in of_the_class(heard, len(x))]
    fronts = {
        each.name: each.front for w in asked.defences for each in [defended(system, w, seed=0)]
    }
    for name in ("undefended", ANOTHER, *fronts):
        if name in set(done["defence"]):
            continue
        found, shifts = x[other] if name == ANOTHER else x, None
        if name in fronts:
            found = torch.cat([fronts[name](part) for part in x.split(8)])
            shifts = shifted_db(fronts[name], x, found).tolist()
        rows = []
        for n, told in enumerate(measured(x, found, system.sample_rate, available())):
            row: dict[str, object] = {"defence": name, "file": files[n], **told}
            if n < asked.heard:
                said, sound = SAID[files[n].split("-")[4]], found[n].numpy()
                row["word_errors"] = word_errors(said, words(decoder, sound))
                row["same_voice"] = float(voices[n] @ encoder.embed_utterance(sound))
            if shifts:
                row["shift_db"] = shifts[n]
            rows.append(row)
        done = pd.concat([done, pd.DataFrame(rows)], ignore_index=True)
        write_whole(RESULTS, done.to_csv(index=False, float_format="%.4f").encode())
        print(done.groupby("defence", sort=False).median(numeric_only=True), flush=True)


if __name__ == "__main__":
    main()
