"""How large a share of the utterances no change above a signal-to-noise ratio can move: a proof.

Every utterance is a stage of its own, so a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from servax.defences import certify_sound
from servax.errors import SettingError
from servax.evaluation.dataset import EvaluationSet, Progress
from servax.evaluation.settings import Certifying
from servax.evaluation.systems import System
from servax.perturbation import ratio_of
from servax.stages import Watcher
from servax.stages.stage import Task, make_stage
from servax.training import generator

CERTIFIED_DB = tuple(range(30, 81, 5))
"""Signal-to-noise ratios at which shares are told."""


COLUMNS = ["noise_db", "utterance", "speaker", "label", "answer", "snr_db"]


def certified(
    system: System,
    heard: EvaluationSet,
    settings: Certifying,
    *,
    seed: int,
    folder: Path,
    batch_size: int,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the certificate of each utterance.

    Args:
        system: A model of sound, with what stands between the noise and it.
        heard: The utterances.
        settings: Noise and draws.
        seed: Draws the noise.
        folder: Keeps what is done.
        batch_size: Noisy copies in one pass.
        progress: Is told (done, total) utterances.

    Returns:
        One row per noise and utterance, with `COLUMNS`: `answer` is the vote's, empty where none is
        sure enough; above `snr_db` no change moves it, infinite likewise.

    Raises:
        SettingError: The model takes no sound, or an utterance is silent.
    """
    if system.inputs != "waveform":
        expected = "a model of sound; of log-Mels certify with servax.defences.certify"
        raise SettingError("model", system.name, expected)
    table = heard.corpus.utterances[["utterance", "speaker", "label"]]
    rows: list[tuple[Any, ...]] = []
    for noise in settings.noise:
        one = replace(settings, noise=(noise,))
        for sound, utterance in zip(heard.x, table.itertuples(index=False), strict=True):
            digest = hashlib.sha256(sound.numpy().tobytes()).hexdigest()
            key = {
                "system": system.identity,
                "sound": digest,
                "seed": seed,
                "settings": asdict(one),
            }
            stage = make_stage(folder, "certificate", str(utterance.utterance), key)
            work = partial(
                _certificate,
                system.model,
                sound,
                one,
                generator(seed, "certify", f"{noise:g}", digest),
                batch_size,
            )
            told = Task(stage, "attack", (), 1, 1.0, work).perform(Watcher())
            answer = heard.names[told["prediction"]] if told["radius"] else ""
            ratio = ratio_of(told["radius"]) if told["radius"] else math.inf
            rows.append((noise, *utterance, answer, ratio))
            if progress:
                progress(len(rows), len(table) * len(settings.noise))
    return pd.DataFrame(rows, columns=COLUMNS)


def _certificate(
    model: nn.Module,
    sound: Tensor,
    settings: Certifying,
    draws: torch.Generator,
    batch_size: int,
    *_: object,
) -> dict[str, Any]:
    """Return the class (or `ABSTAIN`) and the radius of one sound (T,), as a stage keeps them."""
    (noise,) = settings.noise
    found = certify_sound(
        model,
        sound[None],
        noise_db=noise,
        draws_to_select=settings.draws_to_select,
        draws_to_estimate=settings.draws,
        alpha=settings.alpha,
        generator=draws,
        batch_size=batch_size,
    )
    return {"prediction": int(found.prediction), "radius": float(found.radius)}


def shares(found: pd.DataFrame) -> pd.DataFrame:
    """Return the shares of utterances whose answer no change above each ratio moves.

    Columns: `noise_db`, `snr_db`; `firm`, the share of such utterances; `firm_and_right`, of those
    whose answer is the label too.
    """
    rows = []
    for noise, each in found.groupby("noise_db"):
        right = each["answer"] == each["label"]
        for ratio in CERTIFIED_DB:
            firm = each["snr_db"] <= ratio
            rows.append((noise, float(ratio), float(firm.mean()), float((firm & right).mean())))
    return pd.DataFrame(rows, columns=["noise_db", "snr_db", "firm", "firm_and_right"])
