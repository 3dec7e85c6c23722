"""To the Hugging Face hub and back, against a hub on loopback.

In a process of its own, since huggingface_hub reads its environment once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import Hub, serving
from huggingface_hub import ModelCard

import servax
from servax.pretrained import folder
from servax.purifier import Purifier

PUSH = """
from servax.purifier import Purifier
purifier = Purifier.from_pretrained("ssad-plus-synthetic")
card = {"license": "apache-2.0", "datasets": ["synthetic"], "language": "en"}
print(purifier.push_to_hub("me/ssad", token="hf_test", model_card_kwargs=card))
"""
PULL = """
import sys
import torch
from servax.purifier import Purifier
here, there = (Purifier.from_pretrained(name, **hub) for name, hub in (
    ("ssad-plus-synthetic", {}), ("me/ssad", {"revision": sys.argv[1]})))
x = torch.rand(1, 1, 64, 64)
print(torch.equal(here(x), there(x)), there.speakers == here.speakers)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def python(code: str, hub: Hub, home: Path, *arguments: str) -> str:
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(Path(servax.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_to_the_hub_and_back(hub: Hub, tmp_path: Path) -> None:
    url = python(PUSH, hub, tmp_path / "home")
    ((sha, files),) = hub.commits.items()
    assert url == f"{hub.address}/me/ssad/commit/{sha}"
    assert sorted(files) == ["README.md", "settings.json", "weights.safetensors"]
    packaged = folder("ssad-plus-synthetic") / "weights.safetensors"
    assert files["weights.safetensors"] == packaged.read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "audio-to-audio"
    assert "adversarial-purification" in card.data.tags

    # Later, others push what would run, and what would lie elsewhere; the revision is pinned.
    hub.commit({"model.pkl": b"cos\nsystem\n", "../../evil": b"", "settings.json": b"{}"})
    hub.asked.clear()
    assert python(PULL, hub, tmp_path / "other", sha) == "True True"
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"settings.json", "weights.safetensors"}

    hub.asked.clear()
    with pytest.raises(AssertionError, match="names the network None"):
        python(PULL, hub, tmp_path / "third", "main")
    fetched = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"settings.json", "weights.safetensors"}


def test_a_card_without_a_licence_says_so(tmp_path: Path) -> None:
    purifier = Purifier.from_pretrained("ssad-plus-synthetic")
    purifier.save_pretrained(tmp_path / "bare")
    purifier.save_pretrained(tmp_path / "told", model_card_kwargs={"license": "cc-by-nc-sa-4.0"})
    bare, told = (ModelCard.load(tmp_path / name / "README.md") for name in ("bare", "told"))
    assert bare.data.license is None
    assert "No licence was stated" in bare.text
    assert told.data.license == "cc-by-nc-sa-4.0"
    assert "Licence of the weights: cc-by-nc-sa-4.0." in told.text
