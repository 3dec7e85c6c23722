"""Put the purifier before a Hugging Face model that classifies sound.

    python examples/defend_hugging_face.py MODEL in.wav

MODEL is a folder or hub id of an audio-classification model (wav2vec 2.0, HuBERT, WavLM, AST …).
Needs `pip install '.[hf]'`. What the purifier is worth before that model, and what it costs,
says `servax audit MODEL --defences ssad-plus-ravdess`.
"""

from __future__ import annotations

import argparse

from transformers import pipeline

import servax as sx
from servax import audio


def main() -> None:
    """Print what the model hears in a sound, bare and behind the purifier."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder or hub id of an audio-classification model")
    parser.add_argument("sound", help="sound file (WAV, FLAC, OGG, MP3 …)")
    parser.add_argument("--purifier", default="ssad-plus-ravdess", help="default: %(default)s")
    given = parser.parse_args()

    classify = pipeline("audio-classification", model=given.model)
    rate = classify.feature_extractor.sampling_rate
    sound = audio.read(given.sound, sample_rate=rate)
    bare = classify({"raw": sound, "sampling_rate": rate})

    # The defence, in one line; what comes out is a pipeline, and takes whatever one takes.
    classify = sx.protected_pipeline(classify, given.purifier)
    defended = classify(given.sound)

    for title, answer in (("bare", bare), ("behind the purifier", defended)):
        scores = ", ".join(f"{each['label']} {each['score']:.3f}" for each in answer)
        print(f"{title}: {scores}")


if __name__ == "__main__":
    main()
