"""Put the purifier before an ONNX model of audonnx, as of arousal, dominance and valence.

    python examples/defend_audonnx.py ROOT in.wav

ROOT is what `audonnx.load` takes: a folder with `model.yaml` and `model.onnx`. Needs
`pip install audonnx`.
"""

from __future__ import annotations

import argparse

import audonnx

import servax as sx
from servax import audio


def main() -> None:
    """Print what the model hears in a sound, bare and behind the purifier."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", help="folder of a model of audonnx")
    parser.add_argument("sound", help="sound file (WAV, FLAC, OGG, MP3 …)")
    parser.add_argument("--purifier", default="ssad-plus-ravdess", help="default: %(default)s")
    given = parser.parse_args()

    rate = 16_000
    sound = audio.read(given.sound, sample_rate=rate)
    bare = audonnx.load(given.root)
    # The defence, in one line; what comes out is called as the model is.
    defended = sx.protected_pipeline(bare, given.purifier)
    for title, model in (("bare", bare), ("behind the purifier", defended)):
        logits = model(sound, rate)["logits"].ravel()
        told = zip(model.labels("logits"), logits, strict=True)
        print(f"{title}: {', '.join(f'{name} {value:.3f}' for name, value in told)}")


if __name__ == "__main__":
    main()
