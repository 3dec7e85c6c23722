from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import servax
from servax.defences import AdversarialTraining
from servax.errors import RecipeError, SettingError
from servax.evaluation.suites import AttackGrid
from servax.experiments import CorpusChoice, EncoderRecipe, Recipe, load_recipe
from servax.features import FrontEndSettings, LogMelSettings, SpecAugment
from servax.models import TAPS
from servax.purifier import PRESETS, SSA, PurifierTraining
from servax.training import Compute, RecogniserTraining

ROOT = Path(servax.__file__).parents[1]
SHIPPED = sorted([*ROOT.glob("recipes/*.yaml"), *ROOT.glob("servax/experiments/*.yaml")])
KEYS = (
    "adversarial, attacks, batch_size, compute, controls, corpus, discriminator, front_end, "
    "groups, held_out, name, network, purifiers, recogniser, resources, scale, seeds, variants, "
    "width, window_db"
)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_parse_and_tell_their_story(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    without_ssad = ("fsdd_digits_loso", "ravdess_gender", "ravdess_noise", "ravdess_speaker")
    if isinstance(recipe, EncoderRecipe):
        assert "vaccinated-15" in recipe.rivals
    else:
        assert ("ssad-plus" if path.stem in without_ssad else "ssad") in recipe.purifiers
    head = path.read_text(encoding="utf-8")
    for line in ("# Command:", "# Hardware:", "# Time:", "# Expected:"):
        assert line in head


def test_recipes_are_shipped() -> None:
    assert {
        "demo.yaml",
        "ravdess_quick.yaml",
        "iemocap_paper.yaml",
        "ravdess_paper.yaml",
        "ravdess_paper_cpu.yaml",
        "ravdess_full_width.yaml",
        "ravdess_whisper.yaml",
        "synthetic_paper.yaml",
    } <= {p.name for p in SHIPPED}


def test_the_papers_evaluation_of_iemocap() -> None:
    """Ten folds, one for each speaker; all of Table 1 and Figure 2; the method's defaults."""
    recipe = load_recipe(ROOT / "recipes" / "iemocap_paper.yaml")
    assert (recipe.corpus.name, recipe.corpus.scheme) == ("iemocap", "four")
    assert (recipe.groups, recipe.width, recipe.scale) == ("speaker", 64, "window")
    assert recipe.attacks == AttackGrid()
    assert recipe.chosen["ssad"] == PRESETS["ssad"]
    assert recipe.adversarial.training == AdversarialTraining()
    assert {f"adversarial-similarity-{e}" for e in (0.003, 0.006, 0.009, 0.012, 0.015)} <= set(
        recipe.defences
    )
    assert len(recipe.seeds) >= 3
    ravdess = load_recipe(ROOT / "recipes" / "ravdess_paper.yaml")
    assert ravdess.attacks == recipe.attacks
    assert ravdess.defences == recipe.defences
    assert (ravdess.groups, ravdess.folds(6)) == (6, tuple(range(6)))


def test_the_shortest_recipe_is_all_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "name: trial\ncorpus: {name: ravdess}\n"))
    assert recipe == Recipe("trial", CorpusChoice("ravdess"))
    assert recipe.folds(6) == (0, 1, 2, 3, 4, 5)
    assert recipe.attacks == AttackGrid()
    assert [recipe.chosen[name].training for name in recipe.purifiers] == [
        PRESETS[name].training for name in ("ssad", "ssad-residual")
    ]


WHOLE = """
name: whole-1
corpus: {name: /data/mine.csv, root: /data, scheme: native, seed: 3}
groups: 4
held_out: [3, 1]
seeds: [11, 12]
width: 8
network: crnn
front_end: {logmel: {window: hamming, f_min: 20}, level_dbfs: null, frames: 100, fill: floor}
window_db: 60
recogniser: {epochs: 3, patience: 2, learning_rate: 1e-3, augment: {time_masks: 1}, shift: false}
discriminator: {channels: [4, 8], hidden: [16]}
purifiers:
  ssad-residual: {epochs: 2, ssa: {steps: 4, start: ball}, weights: {pixel: 2}, tap: pool3}
controls: {gaussian_noise: 0.1, mean_filter: 5, quantise_bits: [3]}
attacks: {epsilons: [0.01], step: 0.002, radius: 1E-2, steps: 5, adaptive_steps: 9}
batch_size: 4
compute: {device: cpu, precision: bfloat16}
"""


def test_every_key_arrives(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, WHOLE))
    assert recipe.corpus == CorpusChoice("/data/mine.csv", "/data", "native", 3)
    assert (recipe.groups, recipe.held_out, recipe.folds(4)) == (4, (3, 1), (2, 0))
    assert (recipe.seeds, recipe.width, recipe.batch_size) == ((11, 12), 8, 4)
    assert recipe.network == "crnn"
    logmel = LogMelSettings(window="hamming", f_min=20.0)
    assert recipe.front_end == FrontEndSettings(logmel, None, 100, "floor")
    assert recipe.window_db == 60.0
    assert recipe.recogniser == RecogniserTraining(
        epochs=3,
        patience=2,
        learning_rate=0.001,
        augment=SpecAugment(time_masks=1),
        shift=False,
    )
    assert recipe.discriminator.channels == (4, 8)
    training = recipe.chosen["ssad-residual"].training
    assert (training.epochs, training.tap, training.weights.pixel) == (2, "pool3", 2.0)
    assert training.ssa == SSA(steps=4, start="ball")
    assert (recipe.controls.mean_filter, recipe.controls.quantise_bits) == (5, (3,))
    assert recipe.attacks == AttackGrid((0.01,), 0.002, 0.01, 5, 9)
    assert recipe.compute == Compute("cpu", "bfloat16")
    # Stages are keyed by these numbers: 60 and 60.0 must not be two settings.
    assert type(recipe.window_db) is type(recipe.front_end.logmel.f_min) is float


def test_masks_can_be_switched_off(tmp_path: Path) -> None:
    text = "name: a\ncorpus: {name: b}\nrecogniser: {augment: null}\n"
    assert load_recipe(write(tmp_path, text)).recogniser.augment is None


def test_recipes_can_be_written_in_python() -> None:
    recipe = Recipe("x", CorpusChoice("emodb"), purifiers={"ssad": PurifierTraining(epochs=1)})
    assert dataclasses.replace(recipe, groups=3).folds(3) == (0, 1, 2)
    assert recipe.chosen["ssad"].training.epochs == 1


HEAD = "name: trial\ncorpus: {name: ravdess}\n"

MALFORMED = {
    # Text that is no recipe.
    "": "holds nothing, expected keys and values such as 'name: trial'.",
    "[1, 2]": "holds no keys, expected keys and values such as 'name: trial'.",
    "trial": "holds no keys, expected keys and values such as 'name: trial'.",
    "name: a: b": "is not YAML (line 1).",
    "name: trial\n\tcorpus: x": "is not YAML (line 2).",
    HEAD + "!!python/object/apply:os.system ['echo']: 1": "is not YAML (line 3).",
    "[" * 5000: "is nested too deeply.",
    HEAD + "width: 1\nwidth: 2": "has the key 'width' twice (line 4), expected once.",
    HEAD + "attacks: {step: 1,\n step: 2}": "has the key 'step' twice (line 4), expected once.",
    # Keys.
    "corpus: {name: ravdess}": "has no 'name', which must be given.",
    "name: trial": "has no 'corpus', which must be given.",
    "name: trial\ncorpus: {root: /x}": "has no 'corpus.name', which must be given.",
    HEAD + "grops: 4": f"unknown key 'grops', expected one of {KEYS}. Did you mean 'groups'?",
    HEAD + "1: 2": f"unknown key '1', expected one of {KEYS}.",
    HEAD + "attacks: {epsilon: [1]}": (
        "unknown key 'attacks.epsilon', expected one of adaptive_steps, epsilons, gradients, "
        "label, radius, step, steps. Did you mean 'epsilons'?"
    ),
    HEAD + "front_end: {logmel: {melz: 3}}": (
        "unknown key 'front_end.logmel.melz', expected one of f_max, f_min, floor, hop_samples, "
        "logarithm, mel_scale, mels, sample_rate, spectrum, window, window_samples. "
        "Did you mean 'mels'?"
    ),
    HEAD + "purifiers: {ssad: {ssa: {budgets: 3}}}": (
        "unknown key 'purifiers.ssad.ssa.budgets', expected one of budget, start, step, steps. "
        "Did you mean 'budget'?"
    ),
    # Values of the wrong kind.
    "name: 3\ncorpus: {name: a}": "name is 3, expected text (put it in quotes).",
    "name: trial\ncorpus: ravdess": "corpus is 'ravdess', expected keys and values.",
    "name: trial\ncorpus:": "corpus is None, expected keys and values.",
    HEAD + "groups: four": (
        "groups is 'four', expected a whole number or 'speaker', 'text', 'official'."
    ),
    "name: trial\ncorpus: {name: ravdess, scheme: speaker}": (
        "groups is 6, expected 'text' or 'official' with scheme 'speaker': speaker-independent "
        "folds would test speakers that train nowhere."
    ),
    "name: trial\ncorpus: {name: ravdess, scheme: gender}\ngroups: text": (
        "groups is 'text', expected 'speaker' or a whole number with scheme 'gender': whoever "
        "knows a speaker knows the gender."
    ),
    HEAD + "groups: 2.5": "groups is 2.5, expected a whole number.",
    HEAD + "groups: true": "groups is True, expected a whole number.",
    HEAD + "held_out: 3": "held_out is 3, expected a list, each entry a whole number.",
    HEAD + "held_out: [a]": "an entry of held_out is 'a', expected a whole number.",
    HEAD + "window_db: eighty": "window_db is 'eighty', expected a number.",
    HEAD + "attacks: {epsilons: [small]}": (
        "an entry of attacks.epsilons is 'small', expected a number."
    ),
    HEAD + "recogniser: {shift: 1}": "recogniser.shift is 1, expected true or false.",
    HEAD + "recogniser: {augment: none}": (
        "recogniser.augment is 'none', expected keys and values."
    ),
    HEAD + "purifiers: [ssad]": "purifiers is ['ssad'], expected keys and values.",
    HEAD + "purifiers: {ssad: 3}": "purifiers.ssad is 3, expected keys and values.",
    HEAD + f"purifiers: {list(range(50))}": (
        "purifiers is [0, 1, 2, 3, 4, 5, ...], expected keys and values."
    ),
    # Values outside their rule.
    "name: a b\ncorpus: {name: a}": "name is 'a b', expected 1 to 64 letters, digits, '-' and '_'.",
    "name: trial\ncorpus: {name: ''}": (
        "corpus.name is '', expected a known corpus or the path of a manifest."
    ),
    "name: trial\ncorpus: {name: a, scheme: five}": (
        "corpus.scheme is 'five', expected one of four, gender, native, speaker. "
        "Did you mean 'native'?"
    ),
    HEAD + "network: resnet18": (
        "network is 'resnet18', expected one of crnn, resnet, vgg16. Did you mean 'resnet'?"
    ),
    HEAD + "groups: 2": "groups is 2, expected at least 3: test, validation, training.",
    HEAD + "held_out: [7]": (
        "held_out is [7], expected groups from 1 to 6, each once, or null for all."
    ),
    HEAD + "held_out: [0, 1]": (
        "held_out is [0, 1], expected groups from 1 to 6, each once, or null for all."
    ),
    HEAD + "held_out: [2, 2]": (
        "held_out is [2, 2], expected groups from 1 to 6, each once, or null for all."
    ),
    HEAD + "held_out: []": (
        "held_out is [], expected groups from 1 to 6, each once, or null for all."
    ),
    HEAD + "seeds: [-1]": (
        "seeds is [-1], expected whole numbers in [0, 2**63), at least one and each once."
    ),
    HEAD + f"seeds: [{2**63}]": (
        f"seeds is [{2**63}], expected whole numbers in [0, 2**63), at least one and each once."
    ),
    HEAD + "seeds: [1, 1]": (
        "seeds is [1, 1], expected whole numbers in [0, 2**63), at least one and each once."
    ),
    HEAD + "seed: 1": f"unknown key 'seed', expected one of {KEYS}. Did you mean 'seeds'?",
    HEAD + "scale: zscore": (
        "scale is 'zscore', expected one of window, z-score. Did you mean 'z-score'?"
    ),
    HEAD + "adversarial: {objectives: [vanila]}": (
        "adversarial.objectives is 'vanila', expected one of pgd-at, similarity, smoothed, "
        "trades, vanilla. Did you mean 'vanilla'?"
    ),
    HEAD + "adversarial: {epsilons: []}": "adversarial.epsilons is [], expected at least one size.",
    HEAD + "resources: {train: {gpus: 1.5}}": (
        "resources.train.gpus is 1.5, expected a share in [0, 1) or a whole number."
    ),
    HEAD + "resources: {attack: {cpus: 0}}": (
        "resources.attack.cpus is 0, expected a whole number of at least 1, or null."
    ),
    HEAD + "variants: {other: {preset: ssad, training: {}}}": (
        "variants is 'other', expected the preset, '-' and a word, such as ssad-no-gan."
    ),
    HEAD + "variants: {ssad-residual: {preset: ssad, training: {}}}": (
        "variants is 'ssad-residual', expected a name that is not a preset's."
    ),
    HEAD + "width: 0": "width is 0, expected a whole number in [1, 1024].",
    HEAD + "window_db: -3": "window_db is -3.0, expected a width above 0 dB.",
    HEAD + "batch_size: 0": "batch_size is 0, expected a whole number of at least 1.",
    HEAD + "purifiers: {sad: }": (
        "purifiers is 'sad', expected one of ssad, ssad-plus, ssad-residual. Did you mean 'ssad'?"
    ),
    HEAD
    + "purifiers: {}": "purifiers is {}, expected at least one of ssad, ssad-residual, ssad-plus.",
    HEAD + "purifiers: {ssad: {tap: conv6_1}}": (
        f"purifiers.ssad.tap is 'conv6_1', expected one of {', '.join(sorted(TAPS))}. "
        "Did you mean 'conv5_1'?"
    ),
    HEAD + "purifiers: {ssad: {ssa: {step: 0}}}": (
        "purifiers.ssad.ssa.step is 0.0, expected a number in (0, 1]."
    ),
    HEAD + "purifiers: {ssad: {ssa: {start: bal}}}": (
        "purifiers.ssad.ssa.start is 'bal', expected one of ball, step. Did you mean 'ball'?"
    ),
    HEAD + "purifiers: {ssad: {ssa: {start: 3}}}": (
        "purifiers.ssad.ssa.start is 3, expected one of ball, step."
    ),
    HEAD + "recogniser: {learning_rate: .nan}": (
        "recogniser.learning_rate is nan, expected a number in (0, 1]."
    ),
    HEAD + "front_end: {frames: 31}": "front_end.frames is 31, expected at least 32 for VGG-16.",
    HEAD + "front_end: {logmel: {mels: 40}}": (
        "front_end.logmel.mels is 40, expected 64, the size of a token of ssad."
    ),
    HEAD + "front_end: {fill: mirror}": (
        "front_end.fill is 'mirror', expected one of floor, repeat."
    ),
    HEAD + "controls: {gaussian_noise: 2}": (
        "controls.gaussian_noise is 2.0, expected a number in (0, 1]."
    ),
    HEAD + "controls: {mean_filter: 4}": "controls.mean_filter is 4, expected an odd whole number.",
    HEAD + "controls: {quantise_bits: [8, 8]}": (
        "controls.quantise_bits is [8, 8], expected whole numbers in [1, 16], each once."
    ),
    HEAD + "attacks: {step: -1}": "attacks.step is -1.0, expected a finite number above 0.",
    HEAD + "attacks: {adaptive_steps: 0}": (
        "attacks.adaptive_steps is 0, expected a whole number of at least 1."
    ),
    HEAD + "compute: {device: gpu}": (
        "compute.device is 'gpu', expected auto, cpu, cuda or cuda:N."
    ),
    HEAD + "compute: {precision: half}": (
        "compute.precision is 'half', expected one of bfloat16, float32."
    ),
}


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_recipes_are_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError, match=f"^{re.escape(f'{path}: {MALFORMED[text]}')}$") as caught:
        load_recipe(path)
    assert caught.value.exit_code == 2


def test_a_missing_recipe(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        sentence = f"{path}: no such recipe; expected a YAML file such as recipes/*.yaml."
        with pytest.raises(RecipeError, match=f"^{re.escape(sentence)}$"):
            load_recipe(path)


def test_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(RecipeError, match=f"^{re.escape(f'{path}: is not UTF-8 text.')}$"):
        load_recipe(path)
    path.write_bytes(b"name: \x00\x01")
    with pytest.raises(RecipeError, match=f"^{re.escape(f'{path}: is not YAML.')}$"):
        load_recipe(path)


def test_a_file_too_large_to_be_a_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "# " + "x" * 1_000_000)
    sentence = f"{path}: has 1000002 bytes, expected at most 1000000."
    with pytest.raises(RecipeError, match=f"^{re.escape(sentence)}$"):
        load_recipe(path)


def test_aliases_do_not_fill_the_memory(tmp_path: Path) -> None:
    layers = ["&a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 12):
        layers.append(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]")  # 9 ** 12 words in all
    path = write(tmp_path, f"{HEAD}groups: [{', '.join(layers)}]\n")
    with pytest.raises(RecipeError, match=r": groups is .{1,300}, expected a whole number\.$"):
        load_recipe(path)


@pytest.mark.parametrize("name", ["", "-a", "a.b", "../a", "a" * 65, "é"])
def test_names_of_runs_are_names_of_folders(name: str) -> None:
    sentence = f"name is {name!r}, expected 1 to 64 letters, digits, '-' and '_'."
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}$"):
        Recipe(name, CorpusChoice("ravdess"))
