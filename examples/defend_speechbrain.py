"""Put the purifier before a classifier of SpeechBrain.

    python examples/defend_speechbrain.py SOURCE in.wav

SOURCE is what `EncoderClassifier.from_hparams` takes: a folder, or an id of the hub. Needs
`pip install speechbrain`; what `foreign_class` gives is defended alike. What the purifier is worth
before that model says an audit of it (docs/audit.md shows the ten lines that it takes).
"""

from __future__ import annotations

import argparse

from speechbrain.inference.classifiers import EncoderClassifier

import servax as sx


def main() -> None:
    """Print what the model hears in a sound, bare and behind the purifier."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", help="folder or hub id of a classifier of SpeechBrain")
    parser.add_argument("sound", help="sound file (WAV, FLAC …)")
    parser.add_argument("--purifier", default="ssad-plus-ravdess", help="default: %(default)s")
    given = parser.parse_args()

    bare = EncoderClassifier.from_hparams(source=given.source)
    # The defence, in one line: `encode_batch` hears purified sound, and with it all that calls it.
    defended = sx.protected_pipeline(bare, given.purifier)
    for title, classify in (("bare", bare), ("behind the purifier", defended)):
        _, score, _, label = classify.classify_file(given.sound)
        print(f"{title}: {label[0]} {float(score[0]):.3f}")


if __name__ == "__main__":
    main()
