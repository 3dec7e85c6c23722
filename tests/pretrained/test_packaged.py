"""The packaged networks, whichever there are: they load by name, and their papers are in order."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file

from servax.cli import main
from servax.errors import CheckpointError, SettingError
from servax.evaluation.loading import load_system
from servax.evaluation.options import defended, surrogate
from servax.models import load_network
from servax.pretrained import PURIFIER, RECOGNISER, folder, names, resolve
from servax.purifier import Purifier
from servax.recognition import Recogniser

ROOT = Path(__file__).parents[2]
LICENCES = {"cc-by-nc-sa-4.0": "CC BY-NC-SA 4.0", "apache-2.0": "Apache-2.0"}
FREEST = {"ravdess": "cc-by-nc-sa-4.0", "synthetic": "apache-2.0"}
"""What weights made from a corpus may be licensed as, at the freest."""
MEGABYTE = 1_000_000


def test_the_defaults_are_packaged() -> None:
    assert PURIFIER in names("purifier")
    assert RECOGNISER in names("recogniser")
    assert sorted(names("purifier") + names("recogniser")) == list(names())


@pytest.mark.parametrize("name", names())
def test_a_folder_holds_weights_settings_and_a_card_only(name: str) -> None:
    files = sorted(path.name for path in folder(name).iterdir())
    graph = ["purifier.onnx"] if name == "ssad-plus-ravdess" else []  # the default needs no torch
    assert files == sorted([*graph, "README.md", "settings.json", "weights.safetensors"])
    tensors = load_file(folder(name) / "weights.safetensors")
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float32}


def test_all_weights_together_stay_small() -> None:
    sizes = [path.stat().st_size for name in names() for path in folder(name).iterdir()]
    assert sum(sizes) < 10 * MEGABYTE


@pytest.mark.parametrize("name", names())
def test_a_card_says_the_licence_of_the_data(name: str) -> None:
    text = (folder(name) / "README.md").read_text(encoding="utf-8")
    data = ModelCard(text).data
    bound = [FREEST[corpus] for corpus in data.datasets]
    assert data.license == ("cc-by-nc-sa-4.0" if "cc-by-nc-sa-4.0" in bound else bound[0])
    assert ("Not for commercial use" in text) == (data.license == "cc-by-nc-sa-4.0")
    assert (data.model_name, data.library_name) == (name, "servax")
    assert data.eval_results
    for section in ("Licence", "Network", "Data", "Training", "Figures", "Limits"):
        assert f"\n## {section}\n" in text


def test_the_table_of_the_docs_is_what_the_folders_say() -> None:
    text = (ROOT / "docs" / "pretrained.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", text, flags=re.MULTILINE)
    assert sorted(name for name, _ in rows) == list(names())
    for name, cells in rows:
        settings = json.loads((folder(name) / "settings.json").read_text(encoding="utf-8"))
        card = ModelCard((folder(name) / "README.md").read_text(encoding="utf-8")).data
        stored = load_network(folder(name))
        buffers = {key for key, _ in stored.network.named_buffers()}
        with safe_open(folder(name) / "weights.safetensors", "pt") as file:
            shapes = [file.get_slice(key).get_shape() for key in set(file.keys()) - buffers]
        assert cells.split(" | ") == [
            settings["extra"]["role"],
            settings["network"],
            str(sum(int(np.prod(shape)) for shape in shapes)),
            ", ".join(card.datasets),
            LICENCES[card.license],
        ]


@pytest.mark.parametrize("name", names("purifier"))
def test_a_purifier_is_read_by_its_name(name: str) -> None:
    found = Purifier.from_pretrained(name).network.state_dict()
    expected = load_file(folder(name) / "weights.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", names("recogniser"))
def test_a_recogniser_is_read_and_audited_by_its_name(name: str) -> None:
    found = Recogniser.from_pretrained(name)
    settings = json.loads((folder(name) / "settings.json").read_text(encoding="utf-8"))
    assert list(found.labels) == settings["extra"]["labels"]
    subject = load_system(name)
    assert (subject.name, subject.labels) == (name, found.labels)
    x = torch.rand(1, 1, 64, 40)
    torch.testing.assert_close(subject.model(x), found.network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("recogniser", "purifier"),
    [
        (one, other)
        for one in names("recogniser")
        for other in names("purifier")
        if one.rpartition("-")[2] == other.rpartition("-")[2]
    ],
)
def test_a_pair_of_one_corpus_stands_in_one_audit(recogniser: str, purifier: str) -> None:
    subject = load_system(recogniser)
    system = defended(subject, purifier, seed=0)
    assert system.name == purifier
    x = torch.rand(1, 1, 64, 40)
    expected = subject.model(Purifier.from_pretrained(purifier)(x))
    torch.testing.assert_close(system.model(x), expected, atol=1e-4, rtol=1e-4)
    files = [folder(purifier) / name for name in ("weights.safetensors", "settings.json")]
    weights = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    both = "\0".join((subject.fingerprint, weights))
    assert system.fingerprint == hashlib.sha256(both.encode()).hexdigest()


def test_a_packaged_recogniser_is_no_surrogate_of_itself() -> None:
    with pytest.raises(SettingError, match="weights of its own, not the audited one"):
        surrogate(load_system(RECOGNISER), RECOGNISER)


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve(PURIFIER) == folder(PURIFIER)
    (tmp_path / PURIFIER).write_text("a file is no folder")
    assert resolve(PURIFIER) == folder(PURIFIER)
    (tmp_path / PURIFIER).unlink()
    shutil.copytree(folder(PURIFIER), tmp_path / PURIFIER)
    assert resolve(PURIFIER) == Path(PURIFIER)
    (tmp_path / PURIFIER / "settings.json").unlink()
    with pytest.raises(CheckpointError, match=f"^{PURIFIER}/settings.json: no such file"):
        Purifier.from_pretrained(PURIFIER)


def test_what_is_neither_stays_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nobody")
    assert resolve("~/runs/ssad") == Path("/nobody/runs/ssad")
    assert resolve(f"./{PURIFIER}") == Path(PURIFIER)  # a path, not a name


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    meant = rf"{PURIFIER}.*Did you mean '{PURIFIER}'\?$"
    with pytest.raises(SettingError, match=rf"^the packaged network is 'sad-plus-.*{meant}"):
        folder("sad-plus-ravdess")
    with pytest.raises(SettingError, match=r"^the packaged network is '\.\./models', expected"):
        folder("../models")
    with pytest.raises(CheckpointError, match=rf"^sad-plus-ravdess: no such folder.*{meant}"):
        Purifier.from_pretrained("sad-plus-ravdess")
    with pytest.raises(SettingError, match=rf"^defence is 'sad-plus-.*{meant}"):
        defended(load_system(RECOGNISER), "sad-plus-ravdess", seed=0)
    meant = rf"{RECOGNISER}.*Did you mean '{RECOGNISER}'\?$"
    with pytest.raises(CheckpointError, match=rf"^rnn-ravdess: no such folder.*{meant}"):
        Recogniser.from_pretrained("rnn-ravdess")
    with pytest.raises(SettingError, match=rf"^model is 'rnn-ravdess'.*{meant}"):
        load_system("rnn-ravdess")


def test_each_is_refused_in_the_place_of_the_other() -> None:
    with pytest.raises(CheckpointError, match="holds a recogniser, expected a purifier"):
        Purifier.from_pretrained(RECOGNISER)
    with pytest.raises(CheckpointError, match="holds a purifier, expected a recogniser"):
        Recogniser.from_pretrained(PURIFIER)


def test_sounds_are_purified_and_attacked_right_after_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.05, 8000)
    soundfile.write("in.wav", noise, 16_000)
    assert main(["purify", "in.wav", "-o", "out.wav"]) == 0
    samples, rate = soundfile.read("in.wav", dtype="float32")
    expected = Purifier.from_pretrained(folder(PURIFIER)).purify(samples, rate)
    found, _ = soundfile.read("out.wav", dtype="float32")
    np.testing.assert_allclose(found, expected, atol=2e-4)
    label = Recogniser.from_pretrained(RECOGNISER).labels[0]
    options = ["--method", "fgsm", "--purifier", PURIFIER, "--json"]
    assert main(["attack", "in.wav", RECOGNISER, label, *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["sound"] for row in told["attacked"]] == ["in.wav"]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("purify", [PURIFIER, "RAVDESS", "not for commercial use"]),
        ("attack", [PURIFIER, RECOGNISER]),
        ("audit", [PURIFIER, RECOGNISER]),
    ],
)
def test_help_names_them_with_their_licence(
    command: str,
    shown: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    licence = ModelCard((folder(PURIFIER) / "README.md").read_text(encoding="utf-8")).data.license
    for words in (*shown, LICENCES[licence]):
        assert words in text
