"""Write the sounds and the picture of docs/sound.md: clean, attacked, purified.

The first utterance of the synthetic corpus that `crnn-synthetic` has not heard, that it recognises,
and that PGD on the sound takes from it and `Purifier.purify` gives back: chosen to show what the
defence does where it works. The page says how often that is.

    python research/example_sounds.py
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sound_distances import log_spectral_distance
from torch import Tensor, nn

from servax import audio
from servax.attacks import WaveformPGD
from servax.corpora import load
from servax.evaluation.distortion import signal_to_noise_ratio
from servax.features import LogMel
from servax.models import WaveformClassifier
from servax.purifier import Purifier
from servax.recognition import Recogniser

SOUNDS = Path("docs/sounds")
PICTURE = Path("docs/images/purified_sound.png")
RATE = 16_000


def main() -> None:
    """Find the example and write it."""
    recogniser = Recogniser.from_pretrained("crnn-synthetic")
    purifier = Purifier.from_pretrained("ssad-plus-synthetic").frozen()
    model = WaveformClassifier(recogniser.logmel, recogniser.network.eval())
    attack = WaveformPGD(snr_db=30.0, steps=15)
    corpus = load("synthetic", scheme="four")
    heard = set(recogniser.speakers) | set(purifier.speakers)
    fresh = corpus.utterances[~corpus.utterances["speaker"].astype(str).isin(heard)]
    right = flipped = back = 0
    said: dict[str, object] = {}
    for row in fresh.to_dict("records"):
        y = recogniser.labels.index(str(row["label"]))
        clean = torch.from_numpy(audio.read(corpus.root / str(row["path"]), sample_rate=RATE))[None]
        if answer(model, clean) != y:
            continue
        right += 1
        attacked = attack(model, clean, torch.tensor([y]))
        if answer(model, attacked) == y:
            continue
        flipped += 1
        purified = torch.from_numpy(purifier.purify(attacked[0].numpy(), RATE))[None]
        if answer(model, purified) != y:
            continue
        back += 1
        if not said:
            write(
                {"clean": clean, "attacked": attacked, "purified": purified},
                [recogniser.labels[answer(model, s)] for s in (clean, attacked, purified)],
            )
            said = {
                "utterance": row["utterance"],
                "snr_attacked_db": round(float(signal_to_noise_ratio(clean, attacked)), 1),
                "snr_purified_db": round(float(signal_to_noise_ratio(attacked, purified)), 1),
                "lsd_purified_db": round(float(log_spectral_distance(attacked, purified)), 1),
            }
    print(json.dumps({"right": right, "flipped": flipped, "given back": back, **said}, indent=1))


@torch.no_grad()
def answer(model: nn.Module, sound: Tensor) -> int:
    """Return the class of a sound (1, T)."""
    return int(model(sound).argmax())


def write(sounds: dict[str, Tensor], answers: list[str]) -> None:
    """Write three sounds and their spectrograms."""
    SOUNDS.mkdir(parents=True, exist_ok=True)
    logmel = LogMel.speech_16k()
    pictures = [logmel(sound)[0, 0].numpy() for sound in sounds.values()]
    top = max(picture.max() for picture in pictures)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
    for axis, (name, sound), picture, told in zip(
        axes, sounds.items(), pictures, answers, strict=True
    ):
        audio.write(SOUNDS / f"{name}.flac", sound[0].clamp(-1, 1 - 2**-15).numpy(), RATE)
        seconds = sound.shape[1] / RATE
        shown = axis.imshow(
            picture,
            origin="lower",
            aspect="auto",
            vmin=top - 70,
            vmax=top,
            extent=(0, seconds, 0, 64),
        )
        axis.set_title(f"{name}: heard as {told}")
        axis.set_xlabel("time (s)")
    axes[0].set_ylabel("Mel bin")
    figure.colorbar(shown, ax=axes, label="dB")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
