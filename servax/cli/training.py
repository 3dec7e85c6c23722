"""``servax train recogniser | purifier``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from servax.cli.options import Groups
from servax.cli.processes import folder_of_main, main_bar, main_say
from servax.corpora import COLUMN_SCHEMES, cache_folder, load
from servax.errors import SettingError
from servax.experiments.training import Parts, fold_parts, train_purifier, train_recogniser
from servax.features import FrontEnd, FrontEndSettings, extract
from servax.kinds import stored
from servax.models import DiscriminatorSettings, NetworkName, RestorerSettings
from servax.purifier import PurifierTraining, SurrogateTraining
from servax.purifier import preset as purifier_preset
from servax.recognition import MODEL, Recogniser
from servax.training import Compute, Processes, Progress, RecogniserTraining, launch


def recogniser(
    corpus: str,
    out: str,
    *,
    root: str | None,
    scheme: str,
    groups: Groups,
    held_out: int,
    width: int,
    epochs: int,
    seed: int,
    device: str,
    processes: Processes,
    network: NetworkName = "vgg16",
) -> int:
    """Train a recogniser into ``out/model``."""
    compute = Compute(device=device)
    kind = compute.resolve()  # a wrong device is refused before any work is done
    fold = FoldChoice(corpus, root, scheme, groups, held_out)
    training = RecogniserTraining(epochs=epochs)
    work = partial(_recogniser, fold, out, network, width, training, seed, compute)
    launch(work, processes, device=kind, prepare=fold.parts)
    return 0


def _recogniser(
    fold: FoldChoice,
    out: str,
    network: NetworkName,
    width: int,
    training: RecogniserTraining,
    seed: int,
    compute: Compute,
) -> None:
    parts = fold.parts()
    # The default has no name here: a training begun before there were others is resumed.
    other = {} if network == "vgg16" else {"network": network}
    settings = identity(parts, width=width, training=asdict(training), seed=seed, **other)
    with folder_of_main(out) as folder, main_bar("recogniser") as update:
        fitted = train_recogniser(
            parts,
            width,
            training,
            folder,
            seed=seed,
            settings=settings,
            compute=compute,
            network=network,
            progress=steps_of(update),
        )
    main_say(
        f"validation UAR {fitted.best:.3f} in epoch {fitted.best_epoch + 1}: {Path(out) / MODEL}"
    )


def purifier(
    corpus: str,
    extractor: str,
    out: str,
    *,
    root: str | None,
    scheme: str,
    groups: Groups,
    held_out: int,
    preset: str,
    epochs: int | None,
    ssa_steps: int | None,
    seed: int,
    device: str,
    processes: Processes,
) -> int:
    """Train a purifier into ``out/model``."""
    compute = Compute(device=device)
    kind = compute.resolve()  # a wrong device is refused before any work is done
    chosen = purifier_preset(preset)
    training = chosen.training
    if ssa_steps is not None:
        training = replace(training, ssa=replace(training.ssa, steps=ssa_steps))  # type: ignore[arg-type]
    if epochs is not None:
        training = replace(training, epochs=epochs)
    fold = FoldChoice(corpus, root, scheme, groups, held_out)
    work = partial(_purifier, fold, extractor, out, chosen.network, training, seed, compute)
    launch(work, processes, device=kind, prepare=partial(_parts_of_extractor, fold, extractor))
    return 0


def _purifier(
    fold: FoldChoice,
    extractor: str,
    out: str,
    network: RestorerSettings,
    training: PurifierTraining | SurrogateTraining,
    seed: int,
    compute: Compute,
) -> None:
    parts, found = _parts_of_extractor(fold, extractor)
    settings = identity(
        parts,
        network=asdict(network),
        training=stored(training),
        extractor=str(Path(extractor).resolve()),
        seed=seed,
    )
    with folder_of_main(out) as folder, main_bar("purifier") as update:
        fitted = train_purifier(
            parts,
            found.extractor,
            network,
            training,
            DiscriminatorSettings(),
            folder,
            seed=seed,
            settings=settings,
            compute=compute,
            progress=steps_of(update),
        )
    main_say(
        f"validation loss {fitted.best:.4f} in epoch {fitted.best_epoch + 1}: {Path(out) / MODEL}"
    )


def _parts_of_extractor(fold: FoldChoice, extractor: str) -> tuple[Parts, Recogniser]:
    """Return the datasets of a fold and the extractor that was trained on it."""
    parts = fold.parts()
    found = Recogniser.from_pretrained(Path(extractor))
    _ = found.extractor  # another network than VGG-16 is refused before any work is done
    if found.scale.settings != parts.scale.settings or found.front_end != parts.front_end:
        raise SettingError(
            "extractor",
            extractor,
            "one trained on the same fold, with the same scale and front-end",
        )
    return parts, found


@dataclass(frozen=True)
class FoldChoice:
    """One fold of a corpus, as options name it; every process of a training reads it anew."""

    corpus: str
    root: str | None
    scheme: str
    groups: Groups
    held_out: int

    def parts(self) -> Parts:
        """Return the datasets of the fold."""
        return chosen_parts(self.corpus, self.root, self.scheme, self.groups, self.held_out)


def chosen_parts(
    corpus: str, root: str | None, scheme: str, groups: Groups, held_out: int
) -> Parts:
    """Return the datasets of one fold of a corpus, held-out groups counted from 1."""
    whole = load(corpus, root, scheme=scheme)
    folds = whole.folds(groups)
    if not 1 <= held_out <= len(folds):
        raise SettingError("held_out", held_out, f"a group from 1 to {len(folds)}")
    fold = folds[held_out - 1]
    front_end = FrontEndSettings()
    with main_bar("features") as update:
        features = extract(
            whole, FrontEnd(front_end), folder=cache_folder() / "features", progress=update
        )
    return fold_parts(fold, features, front_end)


def identity(parts: Parts, **settings: Any) -> str:
    """Return the text that tells a run on these speakers from others (`fit`)."""
    corpus = parts.train.corpus
    told: dict[str, Any] = {"train": [*corpus.utterances["utterance"]]}
    if corpus.scheme in COLUMN_SCHEMES:
        # The same utterances with other labels; the schemes of emotions need no name, since
        # trainings begun before there were others are resumed.
        told["scheme"] = corpus.scheme
    return json.dumps({**told, **settings}, sort_keys=True, default=list)


def steps_of(update: Callable[[int, int], None]) -> Callable[[Progress], None]:
    """Return a progress callback that shows the steps of all epochs in one bar."""
    return lambda p: update(p.epoch * p.steps + p.step, p.epochs * p.steps)
