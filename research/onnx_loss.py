"""Measure what ONNX and int8 cost: UAR behind the purifier, differences, size, time.

The packaged recogniser behind the packaged purifier hears held-out actors of RAVDESS, clean and
under PGD on the sound that knows the bare recogniser (oblivious, 30 dB SNR, 16 bits), as in
`research/purified_sound.py`: with torch, as one ONNX graph in float32, and as int8 by both methods
of onnxruntime. Static int8 is calibrated on 64 clips of the actors that both were trained on.

    python research/onnx_loss.py
    python research/onnx_loss.py --time

leave `results/onnx/loss.json` and `results/onnx/time.json`, which docs/onnx.md tells of.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from servax import audio, runtime
from servax.attacks import WaveformPGD
from servax.corpora import Corpus, load
from servax.defences import Defended
from servax.evaluation.metrics import uar
from servax.experiments.provenance import provenance
from servax.models import WaveformClassifier
from servax.purifier import Purifier
from servax.purifier.export import export_purifier
from servax.purifier.quantising import quantised
from servax.recognition import Recogniser
from servax.runtime.purifier import open_session

RESULTS = Path("results/onnx")
FILES = ("float32", "int8-static", "int8-dynamic")
WAYS = ("torch", *FILES)
STATES = ("clean", "attacked")
CALIBRATION_CLIPS = 64
EVERY = 6
"""Of so many utterances one is heard by the purifier's own file."""
TIMED_CLIPS, ROUNDS = 12, 3
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """What is exported, who listens, and what is heard."""

    purifier: Purifier
    recogniser: Recogniser
    corpus: Corpus
    front_end: nn.Sequential

    @classmethod
    def of(cls, purifier: str, model: str) -> Scene:
        """Return the scene of two packaged networks."""
        cleaner, recogniser = Purifier.from_pretrained(purifier), Recogniser.from_pretrained(model)
        front_end = recogniser.logmel
        return cls(cleaner, recogniser, load("ravdess", scheme="four"), front_end)

    @property
    def rate(self) -> int:
        """Return the rate of the front-end, in Hz."""
        return self.recogniser.front_end.logmel.sample_rate

    def utterances(self, groups: list[int]) -> Iterator[tuple[Array, int]]:
        """Yield sound (1, T) and class of the held-out actors of some of six groups."""
        folds = self.corpus.folds(6)
        for group in groups:
            for row in folds[group - 1].test.utterances.to_dict("records"):
                sound = audio.read(self.corpus.root / str(row["path"]), sample_rate=self.rate)
                yield sound.clip(-1, 1)[None], self.recogniser.labels.index(str(row["label"]))

    def logmel(self, sound: Array) -> Array:
        """Return the scaled log-Mel (1, 1, M, F) of sound (1, T)."""
        with torch.inference_mode():
            return np.asarray(self.front_end(torch.from_numpy(sound)).numpy())

    def calibration(self) -> list[Array]:
        """Return clips (1, T) of the actors that both networks were trained on."""
        heard = set(self.purifier.speakers) & set(self.recogniser.speakers)
        table = self.corpus.utterances
        paths = [str(p) for p in table.loc[table["speaker"].astype(str).isin(heard), "path"]]
        chosen = paths[:: len(paths) // CALIBRATION_CLIPS][:CALIBRATION_CLIPS]
        return [audio.read(self.corpus.root / p, sample_rate=self.rate)[None] for p in chosen]

    def write(self, folder: Path) -> tuple[dict[str, Path], ...]:
        """Return the files of the whole graph, of the purifier of log-Mels and of that of sound."""
        clips = self.calibration()
        mels = [self.logmel(c) for c in clips]
        for kind, inputs in (("graph", clips), ("purifier", mels), ("sound", clips)):
            exact = folder / f"{kind}-float32.onnx"
            behind = self.recogniser if kind == "graph" else None
            export_purifier(self.purifier, exact, recogniser=behind, logmel=kind == "purifier")
            for method, seen in (("static", inputs), ("dynamic", [])):
                file = quantised(exact.read_bytes(), seen)
                (folder / f"{kind}-int8-{method}.onnx").write_bytes(file)
        return tuple(
            {each: folder / f"{kind}-{each}.onnx" for each in FILES}
            for kind in ("graph", "purifier", "sound")
        )


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="crnn-ravdess")
    parser.add_argument("--purifier", default="ssad-plus-ravdess")
    parser.add_argument("--groups", nargs="+", type=int, default=[1, 2, 3], help="of 6, held out")
    parser.add_argument("--time", action="store_true", help="time the ways, and nothing else")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    scene = Scene.of(given.purifier, given.model)
    with tempfile.TemporaryDirectory() as folder:
        kinds = scene.write(Path(folder))
        sizes = {path.stem: path.stat().st_size for kind in kinds for path in kind.values()}
        measured = (timed if given.time else measure)(scene, *kinds, given.groups)
    record = {
        "model": given.model,
        "purifier": given.purifier,
        "groups": given.groups,
        "calibration_clips": CALIBRATION_CLIPS,
        "bytes": sizes,
        **measured,
        "seconds": round(time.monotonic() - began),
        "onnxruntime": version("onnxruntime"),
        "onnx": version("onnx"),
        **provenance(shlex.join(["python", *sys.argv])),
    }
    out = RESULTS / ("time.json" if given.time else "loss.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured, indent=1))


def measure(
    scene: Scene,
    graphs: dict[str, Path],
    purifiers: dict[str, Path],
    sounds_of: dict[str, Path],
    groups: list[int],
) -> dict[str, Any]:
    """Return UAR and differences of each way, and the sizes of the files."""
    del sounds_of
    network = scene.recogniser.network.eval()
    cleaner = scene.purifier.frozen()
    whole = WaveformClassifier(scene.front_end, Defended(network, cleaner))
    attack = WaveformPGD(snr_db=30.0, steps=15)
    listener = WaveformClassifier(scene.front_end, network)
    sessions = {name: open_session(path, threads=1) for name, path in graphs.items()}
    alone = {name: open_session(path, threads=1) for name, path in purifiers.items()}
    labels: list[int] = []
    answers: dict[str, dict[str, list[int]]] = {s: {w: [] for w in WAYS} for s in STATES}
    far = {name: {"logits": 0.0, "purified": 0.0} for name in FILES}
    moved: dict[str, list[float]] = {name: [] for name in FILES}
    for sound, label in scene.utterances(groups):
        x, y = torch.from_numpy(sound), torch.tensor([label])
        labels.append(label)
        for state, heard in zip(STATES, (x, attack(listener, x, y)), strict=True):
            with torch.inference_mode():
                expected = whole(heard).numpy()
            answers[state]["torch"].append(int(expected.argmax()))
            for name in FILES:
                logits = sessions[name].run(["logits"], {"waveform": heard.numpy()})[0]
                answers[state][name].append(int(logits.argmax()))
                change = float(np.abs(logits - expected).max())
                far[name]["logits"] = max(far[name]["logits"], change)
            if len(labels) % EVERY == 1:
                mel = scene.logmel(heard.numpy())
                with torch.inference_mode():
                    purified = cleaner(torch.from_numpy(mel)).numpy()
                for name in FILES:
                    found = alone[name].run(None, {"logmel": mel})[0]
                    gap = np.abs(found - purified)
                    moved[name].append(float(gap.mean()))
                    far[name]["purified"] = max(far[name]["purified"], float(gap.max()))
        if len(labels) % 56 == 0:
            print(f"{len(labels)} utterances", flush=True)
    y_all = np.array(labels)
    return {
        "utterances": len(labels),
        "attack": {"snr_db": 30.0, "steps": 15, "knowledge": "oblivious"},
        "uar": {
            state: {way: _percent(y_all, found) for way, found in told.items()}
            for state, told in answers.items()
        },
        "same_answer_as_torch": {
            state: {
                name: round(100 * float(np.mean(np.array(told[name]) == told["torch"])), 1)
                for name in FILES
            }
            for state, told in answers.items()
        },
        "largest_difference": far,
        "purified_clips": 2 * len(range(0, len(labels), EVERY)),
        "mean_difference_purified": {n: float(np.mean(v)) for n, v in moved.items()},
    }


def timed(
    scene: Scene,
    graphs: dict[str, Path],
    purifiers: dict[str, Path],
    sounds_of: dict[str, Path],
    groups: list[int],
) -> dict[str, Any]:
    """Return the median milliseconds a clip takes on one thread, the best of some rounds."""
    sounds = [sound for sound, _ in scene.utterances(groups)]
    chosen = sounds[:: len(sounds) // TIMED_CLIPS][:TIMED_CLIPS]
    mels = [scene.logmel(sound) for sound in chosen]
    cleaner = scene.purifier.frozen()
    whole = WaveformClassifier(scene.front_end, Defended(scene.recogniser.network, cleaner)).eval()
    ways: dict[str, tuple[Callable[[Array], object], list[Array]]] = {
        "graph/torch": (lambda a: whole(torch.from_numpy(a)), chosen),
        "purifier/torch": (lambda a: cleaner(torch.from_numpy(a)), mels),
        "sound/torch": (lambda a: cleaner.purify(a[0], scene.rate), chosen),
    }
    for name in FILES:
        session = open_session(graphs[name], threads=1)
        light = runtime.Purifier.load(sounds_of[name], threads=1)
        alone = open_session(purifiers[name], threads=1)
        ways[f"graph/{name}"] = (_runner(session, "waveform"), chosen)
        ways[f"purifier/{name}"] = (_runner(alone, "logmel"), mels)
        ways[f"sound/{name}"] = (_sound(light, scene.rate), chosen)
    best = {name: np.full(len(chosen), np.inf) for name in ways}
    with torch.inference_mode():
        for _ in range(ROUNDS):  # in turn, so that no way has the quieter machine
            for name, (run, inputs) in ways.items():
                for number, each in enumerate(inputs):
                    start = time.perf_counter()
                    run(each)
                    best[name][number] = min(best[name][number], time.perf_counter() - start)
    seconds = float(np.median([sound.shape[1] for sound in chosen])) / scene.rate
    return {
        "clips": len(chosen),
        "median_seconds_of_a_clip": round(seconds, 2),
        "threads": 1,
        "milliseconds": {n: round(1e3 * float(np.median(v)), 1) for n, v in sorted(best.items())},
    }


def _runner(session: Any, name: str) -> Callable[[Array], object]:
    first = session.get_outputs()[0].name
    return lambda given: session.run([first], {name: given})


def _sound(purifier: runtime.Purifier, rate: int) -> Callable[[Array], object]:
    return lambda sound: purifier.purify(sound[0], rate)


def _percent(labels: NDArray[np.int64], found: list[int]) -> float:
    return round(100 * uar(labels, np.array(found)), 1)


if __name__ == "__main__":
    main()
