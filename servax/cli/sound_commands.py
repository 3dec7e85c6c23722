"""The commands whose input are sounds: attack and purify."""

from __future__ import annotations

from typing import Literal

from servax.errors import SettingError
from servax.pretrained import PURIFIER


def attack(
    sounds: str,
    model: str,
    label: str,
    out: str = "adversarial",
    on: Literal["logmel", "waveform"] = "logmel",
    method: Literal["fgsm", "pgd"] = "pgd",
    epsilon: float = 0.003,
    snr: float | None = None,
    step: float = 0.003,
    radius: float = 0.02,
    steps: int = 15,
    purifier: str | None = None,
    masking: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Attack a recogniser: adversarial log-Mel or sound, with predictions and distortion.

    Args:
        sounds: A sound file, or a folder of them.
        model: Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0).
        label: True label of the sounds, one of the recogniser's.
        out: Folder for what comes out, one file for each sound: of a.wav the log-Mel a.wav.npy
            (64, 373) on [0, 1], or the 16-bit a.wav; of a.mp3, a.mp3.npy or a.mp3.wav. A folder
            keeps its structure, and what is there already is skipped.
        on: logmel or waveform: what the attack may change.
        method: fgsm or pgd.
        epsilon: Size of FGSM, on the [0, 1] scale (.003 is .24 dB); on the waveform the budget of
            both methods, as a share of full scale (.003 is -50 dBFS).
        snr: Lowest signal-to-noise ratio in dB, in place of epsilon; only on the waveform.
        step: Step of PGD, on the [0, 1] scale; on the waveform it is a quarter of the budget.
        radius: Radius of PGD, on the [0, 1] scale (.02 is 1.6 dB); not used on the waveform.
        steps: Steps of PGD.
        purifier: Folder of a purifier to attack through (adaptive), or a packaged one
            (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a Hugging Face hub id; default attacks the bare
            model.
        masking: Keep the change of a waveform below the masking threshold of the clean sound, as
            far as frames and 16 bits allow.
        overwrite: Replace files that are there already.
        json: Print JSON.
    """
    from servax.cli.sound import attack_sounds, choose_attack

    chosen = choose_attack(
        on, method, epsilon=epsilon, snr=snr, step=step, radius=radius, steps=steps
    )
    return attack_sounds(
        sounds,
        model,
        label,
        out,
        chosen=chosen,
        title=f"{method} of the {on}",
        purifier=purifier,
        masking=masking,
        overwrite=overwrite,
        as_json=json,
    )


def purify(
    sounds: str,
    out: str | None = None,
    purifier: str = PURIFIER,
    overwrite: bool = False,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: int | None = None,
    json: bool = False,
) -> int:
    """Purify a sound, a folder or a manifest: audio to audio, same length, rate and level.

    What is within full scale stays so: where needed a limiter lowers it, and says so. Sound of any
    length, in memory that does not grow with it; each channel on its own. A log-Mel (.npy, as
    servax attack writes it) becomes a log-Mel. Of a folder or a manifest, what is there already is
    skipped, so an interrupted run goes on; a bad file never stops the others.

    Args:
        sounds: A sound file, a folder of them (its structure is kept), or a CSV or Parquet manifest
            (columns path, label, speaker; the output has a manifest.csv).
        out: File (.wav or .flac) or folder to write, 16 bits, or floats (.wav) where the source
            is beyond full scale (needed; -o for short). In a folder a.wav stays a.wav, a.mp3
            becomes a.mp3.wav.
        purifier: Folder of a purifier, or a packaged one, or a Hugging Face hub id. The default
            comes with servax; it was trained on RAVDESS and is CC BY-NC-SA 4.0: not for commercial
            use.
        overwrite: Replace files that are there already.
        engine: local purifies on the CPUs of this machine; ray there or on a cluster through Ray
            Data (pip install 'servax[ray]').
        address: HOST:PORT of the head of a Ray cluster to join, or auto for that of this machine;
            default starts Ray here. Every machine must see the files under the same paths.
        workers: Processes of one CPU each, for a folder or a manifest; default as many as there are
            CPUs, of engine local fewer where beginning them takes longer than the work. The bytes
            written are the same for any number.
        json: Print JSON.
    """
    from servax.cli.purifying import purify_sounds

    if out is None:
        raise SettingError("out", None, "a file or folder to write, given as -o OUT")
    return purify_sounds(
        sounds,
        purifier,
        out,
        overwrite=overwrite,
        engine=engine,
        address=address,
        workers=workers,
        as_json=json,
    )
