"""``servax train denoiser``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from servax.cli.options import Groups
from servax.cli.processes import folder_of_main, main_bar, main_say
from servax.cli.training import FoldChoice, steps_of
from servax.defences import DenoiserTraining, train_denoiser
from servax.errors import SettingError
from servax.models import RestorerSettings
from servax.purifier import preset as purifier_preset
from servax.recognition import MODEL
from servax.training import Compute, Processes, launch


def denoiser(
    corpus: str,
    out: str,
    *,
    noise: float,
    root: str | None,
    scheme: str,
    groups: Groups,
    held_out: int,
    preset: str,
    epochs: int,
    seed: int,
    device: str,
    processes: Processes,
) -> int:
    """Train a denoiser into ``out/model``, a folder that everything takes as a purifier."""
    if not 0 < noise <= 1:
        raise SettingError("noise", noise, "a number in (0, 1], on the [0, 1] scale")
    compute = Compute(device=device)
    kind = compute.resolve()  # a wrong device is refused before any work is done
    network = purifier_preset(preset).network
    training = DenoiserTraining(standard_deviation=noise, epochs=epochs)
    fold = FoldChoice(corpus, root, scheme, groups, held_out)
    work = partial(_denoiser, fold, out, network, training, seed, compute)
    launch(work, processes, device=kind, prepare=fold.parts)
    return 0


def _denoiser(
    fold: FoldChoice,
    out: str,
    network: RestorerSettings,
    training: DenoiserTraining,
    seed: int,
    compute: Compute,
) -> None:
    parts = fold.parts()
    with folder_of_main(out) as folder, main_bar("denoiser") as update:
        fitted = train_denoiser(
            parts.train,
            parts.validation,
            training,
            folder,
            network=network,
            front_end=parts.front_end,
            seed=seed,
            compute=compute,
            progress=steps_of(update),
        )
    main_say(
        f"validation loss {fitted.best:.5f} in epoch {fitted.best_epoch + 1}: {Path(out) / MODEL}"
    )
