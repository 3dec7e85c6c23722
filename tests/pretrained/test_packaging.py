"""research/package.py: model cards from facts, read back by huggingface_hub and by YAML."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from servax.errors import CheckpointError, ServaxError, SettingError
from servax.models import CRNN, FrameTransformer, load_network, save_network
from servax.pretrained import folder, names

SCRIPT = Path(__file__).parents[2] / "research" / "package.py"
FACTS: dict[str, Any] = {
    "summary": "Made for a test.",
    "licence": "cc-by-nc-sa-4.0",
    "knowledge": "Never shown a target.",
    "data": [
        {
            "corpus": corpus,
            "title": corpus.upper(),
            "url": "https://example.org",
            "licence": licence,
            "speakers": ["07", "08"],
            "utterances": 56,
            "use": "training",
        }
        for corpus, licence in (("ravdess", "cc-by-nc-sa-4.0"), ("synthetic", "none"))
    ],
    "training": {"command": "servax train | tee log", "seed": 3},
    "figures": [
        {
            "title": title,
            "value": value,
            "unit": "%",
            "corpus": "ravdess",
            "speakers": "actors 01 to 04",
            "command": "servax audit made",
        }
        for title, value in (("UAR, no attack", 61.25), ("UAR: adaptive PGD", 0.0))
    ],
    "limits": ["Knows two speakers.", "Is a test."],
}
FRONT_END = {"logmel": {"mels": 32, "sample_rate": 16_000}}


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("servax_research_package", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("source") / "model"
    extra = {"role": "purifier", "scale": {"top_db": 2.0}, "front_end": FRONT_END}
    network = FrameTransformer(mels=32, blocks=1, heads=4, feedforward=8)
    save_network(network, place, extra=extra)
    return place


def test_a_card_is_read_back_by_the_hub(
    script: types.ModuleType, source: Path, tmp_path: Path
) -> None:
    row = script.package("made", source, script.Facts.of(FACTS), home=tmp_path)
    text = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "cc-by-nc-sa-4.0"
    assert header["pipeline_tag"] == "audio-to-audio"
    assert header["datasets"] == ["ravdess", "synthetic"]
    (index,) = header["model-index"]
    (result,) = index["results"]
    assert [metric["value"] for metric in result["metrics"]] == [61.25, 0.0]
    data = ModelCard(text).data
    assert (data.model_name, data.language, data.library_name) == ("made", "en", "servax")
    assert [(r.metric_name, r.metric_value) for r in data.eval_results] == [
        ("UAR, no attack (%)", 61.25),
        ("UAR: adaptive PGD (%)", 0.0),
    ]
    trained = sum(p.numel() for p in load_network(source).network.parameters())
    assert row == f"| `made` | purifier | FrameTransformer | {trained} | ravdess, synthetic | " + (
        "CC BY-NC-SA 4.0 |"
    )


def test_a_card_says_all_facts_to_people(
    script: types.ModuleType, source: Path, tmp_path: Path
) -> None:
    script.package("made", source, script.Facts.of(FACTS), home=tmp_path)
    text = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    for line in (
        "CC BY-NC-SA 4.0: **Not for commercial use**; name the source, and pass on what you make "
        "from these weights under the same licence. This holds for the weights, not for servax "
        "itself (Apache-2.0).",
        "| [RAVDESS](https://example.org) | cc-by-nc-sa-4.0 | 07, 08 | 56 | training |",
        "| command | servax train \\| tee log |",
        "| UAR: adaptive PGD | 0.0 % | ravdess, actors 01 to 04 |",
        "Never shown a target.",
        "- Is a test.",
        "| settings | mels 32, blocks 1, heads 4, feedforward 8, residual False |",
        'purifier = sx.Purifier.from_pretrained("made")',
    ):
        assert line in lines
    assert lines.count("servax audit made") == 1  # one command for both figures
    assert not re.search(r"\n\n\n|{{|{%|\[\]|None", text)


def test_weights_and_settings_are_copied_as_they_are(
    script: types.ModuleType, source: Path, tmp_path: Path
) -> None:
    facts = script.Facts.of(FACTS)
    script.package("made", source, facts, home=tmp_path)
    script.package("made", tmp_path / "made", facts, home=tmp_path)  # the card alone, again
    assert len(list((tmp_path / "made").iterdir())) == 3
    for name in ("weights.safetensors", "settings.json"):
        assert (tmp_path / "made" / name).read_bytes() == (source / name).read_bytes()


def test_a_recogniser_trained_on_synthetic_speech_alone_is_free(
    script: types.ModuleType, tmp_path: Path
) -> None:
    extra = {"role": "recogniser", "labels": ["a", "b"], "scale": {}, "front_end": FRONT_END}
    save_network(CRNN(2, 2), tmp_path / "source", extra=extra)
    facts = script.Facts.of({**FACTS, "licence": "apache-2.0", "data": FACTS["data"][1:]})
    script.package("made", tmp_path / "source", facts, home=tmp_path)
    text = (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0: Free for any use, commercial use included." in text
    assert "Not for commercial use" not in text
    assert "| labels | a, b |" in text
    assert ModelCard(text).data.pipeline_tag == "audio-classification"


Change = Callable[[dict[str, Any]], object]
REFUSED: dict[str, tuple[Change, str]] = {
    "freer than its data": (
        lambda f: f.update(licence="apache-2.0"),
        "licence is 'apache-2.0', expected cc-by-nc-sa-4.0, that of RAVDESS.",
    ),
    "an unknown licence": (lambda f: f.update(licence="mit"), "licence is 'mit', expected one of"),
    "speech nobody may use": (
        lambda f: f["data"][0].update(licence="iemocap"),
        "licence of RAVDESS is 'iemocap', expected one of cc-by-nc-sa-4.0, none.",
    ),
    "no limits": (lambda f: f.pop("limits"), "limits of the facts is None, expected something"),
    "no figures": (lambda f: f.update(figures=[]), "figures of the facts is [], expected"),
    "a figure of no command": (
        lambda f: f["figures"][0].pop("command"),
        "command of figures is None, expected something",
    ),
    "a typing error": (
        lambda f: f.update(licnce="mit"),
        "the facts is 'licnce', expected only summary, licence, knowledge, data, training, "
        "figures, limits, language. Did you mean 'licence'?",
    ),
    "one speaker as text": (
        lambda f: f["data"][0].update(speakers="07"),
        "speakers of data is '07', expected a list.",
    ),
    "data as text": (lambda f: f.update(data=["ravdess"]), "data is 'ravdess', expected a JSON"),
}


@pytest.mark.parametrize(("change", "sentence"), REFUSED.values(), ids=REFUSED)
def test_facts_that_do_not_do_are_refused(
    script: types.ModuleType, change: Change, sentence: str
) -> None:
    facts = copy.deepcopy(FACTS)
    change(facts)
    with pytest.raises(SettingError, match=f"^{re.escape(sentence)}"):
        script.Facts.of(facts)


def test_networks_that_do_not_do_are_refused(
    script: types.ModuleType, source: Path, tmp_path: Path
) -> None:
    facts = script.Facts.of(FACTS)
    with pytest.raises(SettingError, match=r"^name is '\.\./up', expected small letters"):
        script.package("../up", source, facts, home=tmp_path / "home")
    save_network(CRNN(2, 2), tmp_path / "bare")
    with pytest.raises(CheckpointError, match="bare: holds no purifier or recogniser"):
        script.package("made", tmp_path / "bare", facts, home=tmp_path / "home")
    with pytest.raises(ServaxError, match="no such file"):
        script.package("made", tmp_path, facts, home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", names())
def test_the_packaged_cards_are_what_their_facts_say(script: types.ModuleType, name: str) -> None:
    """A card edited by hand, or older than its facts or settings, fails here."""
    told = json.loads((SCRIPT.parent / "cards" / f"{name}.json").read_text(encoding="utf-8"))
    expected = script.card(name, load_network(folder(name)), script.Facts.of(told))
    assert (folder(name) / "README.md").read_text(encoding="utf-8") == expected
