"""Put a trained network into the package: its weights, its settings, and a model card from facts.

    python research/package.py ssad-plus-ravdess runs/.../model --facts research/cards/NAME.json

Weights and settings are copied as they are, once they load; README.md is written from the settings
and a file of facts, never by hand. The facts are one JSON object:

    {
      "summary": "One sentence: what it is and what it is for.",
      "licence": "cc-by-nc-sa-4.0",
      "language": "en",
      "knowledge": "What its training saw, and what it never saw.",
      "data": [{"corpus": "ravdess", "title": "RAVDESS, speech", "url": "https://...",
                "licence": "cc-by-nc-sa-4.0", "speakers": ["13", "14"], "utterances": 720,
                "use": "training"}],
      "training": {"command": "...", "commit": "...", "epochs": 24},
      "figures": [{"title": "UAR, no attack", "value": 64.1, "unit": "%", "corpus": "ravdess",
                   "speakers": "groups 1 to 3", "command": "servax audit ..."}],
      "limits": ["..."]
    }

A network is as free as the least free speech that it was trained on; other licences are refused,
and so is speech of a licence that nobody has read yet (`SPEECH`). What espeak-ng speaks on one's
own machine is "none": its GPL covers the program, not the sound.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from servax.errors import CheckpointError, ServaxError, SettingError, nearest
from servax.models import Stored, load_network
from servax.models.storage import SETTINGS, WEIGHTS

PACKAGE = Path(__file__).parents[1] / "servax" / "pretrained"
CARD = "README.md"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
LICENCES: Mapping[str, tuple[str, str]] = {
    "apache-2.0": (
        "Apache-2.0",
        "Free for any use, commercial use included.",
    ),
    "cc-by-nc-sa-4.0": (
        "CC BY-NC-SA 4.0",
        "**Not for commercial use**; name the source, and pass on what you make from these weights "
        "under the same licence. This holds for the weights, not for servax itself (Apache-2.0).",
    ),
}
"""Licences that weights may have, as people write them, and what they ask for."""
SPEECH: Mapping[str, tuple[str, ...]] = {
    "none": ("apache-2.0", "cc-by-nc-sa-4.0"),
    "cc-by-nc-sa-4.0": ("cc-by-nc-sa-4.0",),
}
"""What weights may be licensed as, by the licence of the speech they were trained on."""
TASKS = {"purifier": "audio-to-audio", "recogniser": "audio-classification"}
TAGS = {
    "purifier": ["adversarial-purification", "adversarial-robustness"],
    "recogniser": ["audio-classification"],
}
USE = {
    "purifier": """import servax as sx

purifier = sx.Purifier.from_pretrained("{name}")
cleaned = purifier.purify(waveform, sample_rate=16_000)  # same length, rate and level""",
    "recogniser": """import servax as sx

recogniser = sx.Recogniser.from_pretrained("{name}")
probabilities = recogniser(waveform, 16_000)  # one for each of recogniser.labels""",
}
COMMAND = {
    "purifier": "servax purify IN -o OUT --purifier {name}",
    "recogniser": "servax audit {name}",
}
TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

{{ summary }}

```sh
{{ command }}
```

```python
{{ code }}
```

## Licence

{{ licence }}: {{ terms }}

## Network

| | |
|---|---|
{% for row in network -%}
| {{ row[0] }} | {{ row[1] }} |
{% endfor %}
## Data

| corpus | licence | speakers | utterances | used for |
|---|---|---|---:|---|
{% for each in data -%}
| [{{ each.title }}]({{ each.url }}) | {{ each.licence }} | {{ each.speakers | join(", ") }} | \
{{ each.utterances }} | {{ each.use }} |
{% endfor %}
## What its training knew

{{ knowledge }}

## Training

| | |
|---|---|
{% for key, value in training -%}
| {{ key }} | {{ value }} |
{% endfor %}
## Figures

| what | value | on |
|---|---:|---|
{% for each in figures -%}
| {{ each.title }} | {{ each.value }} {{ each.unit }} | {{ each.corpus }}, {{ each.speakers }} |
{% endfor %}
{% for command in commands -%}
```sh
{{ command }}
```
{% endfor %}
## Limits

{% for each in limits -%}
- {{ each }}
{% endfor -%}
"""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Speech that a network was trained, or stopped, on."""

    corpus: str
    """Name in servax."""
    title: str
    url: str
    licence: str
    """Hugging Face's name of the licence of the speech, or ``none``: one of `SPEECH`."""
    speakers: tuple[str, ...]
    utterances: int
    use: str
    """Training, early stopping ..."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that was measured, with the command that prints it again."""

    title: str
    value: float
    unit: str
    corpus: str
    speakers: str
    """On whom; they must not be those it was trained on."""
    command: str
    metric: str = "recall"
    """Hugging Face's name of the metric; UAR is the mean recall over the classes."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a card says and the settings do not."""

    summary: str
    licence: str
    knowledge: str
    """What the training saw and what it never saw: target, architecture, labels, attacks."""
    data: tuple[Data, ...]
    training: Mapping[str, Any]
    figures: tuple[Figure, ...]
    limits: tuple[str, ...]
    language: str = "en"

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Facts:
        """Return the facts of a JSON object.

        Raises:
            SettingError: One is missing, unknown or empty, or the licence is freer than the data.
        """
        given = _checked(cls, told, "the facts")
        given["data"] = tuple(
            Data(**{**_checked(Data, each, "data"), "speakers": tuple(each["speakers"])})
            for each in given["data"]
        )
        given["figures"] = tuple(
            Figure(**_checked(Figure, each, "figures")) for each in given["figures"]
        )
        facts = cls(**{**given, "limits": tuple(given["limits"])})
        _check_licence(facts)
        return facts


def _checked(kind: type, told: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return `told` after comparing its keys with the fields of a dataclass."""
    if not isinstance(told, Mapping):
        raise SettingError(what, told, "a JSON object")
    known = {each.name: each.default is MISSING for each in fields(kind)}
    for key in sorted(told.keys() - known.keys()):
        raise SettingError(what, key, f"only {', '.join(known)}", hint=nearest(key, known))
    for key in ("data", "figures", "limits", "speakers"):
        if isinstance(told.get(key), str) and kind is not Figure:
            raise SettingError(f"{key} of {what}", told[key], "a list")
    for key, needed in known.items():
        if needed and told.get(key) in (None, "", [], {}):
            raise SettingError(f"{key} of {what}", told.get(key), "something: a card says it")
    return dict(told)


def _check_licence(facts: Facts) -> None:
    if facts.licence not in LICENCES:
        raise SettingError.choice("licence", facts.licence, LICENCES)
    for each in facts.data:
        if each.licence not in SPEECH:
            raise SettingError.choice(f"licence of {each.title}", each.licence, SPEECH)
        if facts.licence not in SPEECH[each.licence]:
            raise SettingError("licence", facts.licence, f"{each.licence}, that of {each.title}")


def card(name: str, stored: Stored, facts: Facts) -> str:
    """Return the model card of a network: a YAML header that the hub reads, and Markdown.

    Args:
        name: Of the packaged network.
        stored: The network, with the role that its settings give it.
        facts: What the settings do not say.
    """
    role = stored.extra["role"]
    licence, terms = LICENCES[facts.licence]
    return str(
        ModelCard.from_template(
            _header(name, role, facts),
            template_str=TEMPLATE,
            name=name,
            summary=facts.summary,
            command=COMMAND[role].format(name=name),
            code=USE[role].format(name=name),
            licence=licence,
            terms=terms,
            network=_network_rows(stored),
            data=facts.data,
            knowledge=facts.knowledge,
            training=[
                (key, str(value).replace("|", "\\|")) for key, value in facts.training.items()
            ],
            figures=facts.figures,
            commands=list(dict.fromkeys(figure.command for figure in facts.figures)),
            limits=facts.limits,
        )
    )


def _header(name: str, role: str, facts: Facts) -> ModelCardData:
    results = [
        EvalResult(
            task_type=TASKS[role],
            dataset_type=figure.corpus,
            dataset_name=f"{figure.corpus}, {figure.speakers}",
            metric_type=figure.metric,
            metric_name=f"{figure.title} ({figure.unit})",
            metric_value=figure.value,
        )
        for figure in facts.figures
    ]
    return ModelCardData(
        license=facts.licence,
        language=facts.language,
        library_name="servax",
        pipeline_tag=TASKS[role],
        tags=["speech-emotion-recognition", *TAGS[role]],
        datasets=list(dict.fromkeys(each.corpus for each in facts.data)),
        metrics=list(dict.fromkeys(figure.metric for figure in facts.figures)),
        model_name=name,
        eval_results=results,
    )


def _network_rows(stored: Stored) -> list[tuple[str, str]]:
    settings = vars(stored.network.settings)  # type: ignore[arg-type]
    logmel = stored.extra["front_end"]["logmel"]
    rows = [
        ("role", stored.extra["role"]),
        ("network", type(stored.network).__name__),
        ("settings", ", ".join(f"{key} {value}" for key, value in settings.items())),
        ("parameters", f"{parameters(stored):,}".replace(",", " ")),
        (
            "input",
            f"log-Mel on [0, 1], {logmel['mels']} bins, {logmel['sample_rate']} Hz; "
            f"scale {json.dumps(stored.extra['scale'])}",
        ),
    ]
    if "labels" in stored.extra:
        rows.append(("labels", ", ".join(stored.extra["labels"])))
    return rows


def parameters(stored: Stored) -> int:
    """Return how many numbers of a network were trained."""
    return sum(each.numel() for each in stored.network.parameters())


def table_row(name: str, stored: Stored, facts: Facts) -> str:
    """Return the row of docs/pretrained.md for a network."""
    corpora = ", ".join(dict.fromkeys(each.corpus for each in facts.data))
    cells = (
        f"`{name}`",
        stored.extra["role"],
        f"{type(stored.network).__name__}",
        str(parameters(stored)),
        corpora,
        LICENCES[facts.licence][0],
    )
    return f"| {' | '.join(cells)} |"


def package(name: str, source: Path, facts: Facts, *, home: Path = PACKAGE) -> str:
    """Leave a network in ``<home>/<name>`` and return its row for the table of the docs.

    Raises:
        SettingError: The name is not small letters, digits and dashes.
        CheckpointError: `source` holds no purifier or recogniser, or weights of other than 32 bits.
    """
    if not NAME.fullmatch(name):
        raise SettingError("name", name, "small letters, digits and dashes, such as crnn-ravdess")
    stored = load_network(source)
    if stored.extra.get("role") not in TASKS:
        raise CheckpointError(source, f"holds no {' or '.join(TASKS)}")
    for key, value in stored.network.state_dict().items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise CheckpointError(source / WEIGHTS, f"holds {value.dtype} in {key}, not float32")
    text = card(name, stored, facts)
    folder = home / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in (WEIGHTS, SETTINGS):
        if (source / file).resolve() != (folder / file).resolve():
            shutil.copyfile(source / file, folder / file)
    (folder / CARD).write_text(text, encoding="utf-8")
    return table_row(name, stored, facts)


def main() -> int:
    """Package what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="name of the packaged network, e.g. crnn-ravdess")
    parser.add_argument("source", type=Path, help="folder with weights and settings")
    parser.add_argument("--facts", type=Path, required=True, help="JSON file for the model card")
    given = parser.parse_args()
    try:
        told = json.loads(given.facts.read_text(encoding="utf-8"))
        row = package(given.name, given.source, Facts.of(told))
    except (ServaxError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"row for docs/pretrained.md:\n{row}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
