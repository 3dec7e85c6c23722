from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from servax.errors import CheckpointError
from servax.models import VGG16, FrameTransformer, frozen, load_network, save_network

SMALL = {"mels": 8, "blocks": 1, "heads": 2, "feedforward": 16}


@pytest.fixture
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return FrameTransformer(**SMALL)


@pytest.fixture
def folder(tmp_path, network) -> Path:
    """Return a folder that holds a whole network."""
    save_network(network, tmp_path / "saved", extra={"role": "purifier"})
    return tmp_path / "saved"


@pytest.mark.parametrize(
    "build",
    [
        lambda: VGG16(classes=5, width=2),
        lambda: FrameTransformer(**SMALL),
        lambda: FrameTransformer(**SMALL, residual=True),
        lambda: FrameTransformer(**SMALL).to(memory_format=torch.channels_last),
    ],
)
def test_a_network_comes_back_bit_for_bit(tmp_path, build):
    network = build()
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    extra = {"labels": ["wütend", "traurig"], "scale": {"top_db": 1.5}, "nothing": None}
    save_network(network, tmp_path / "a" / "b", extra=extra)
    stored = load_network(tmp_path / "a" / "b")
    assert type(stored.network) is type(network)
    assert stored.network.settings == network.settings
    assert stored.extra == extra
    before, after = network.state_dict(), stored.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module.training for module in stored.network.modules())
    assert all(parameter.requires_grad for parameter in stored.network.parameters())


def test_a_folder_holds_safetensors_and_json_that_anybody_can_read(folder, network):
    assert sorted(path.name for path in folder.iterdir()) == [
        "settings.json",
        "weights.safetensors",
    ]
    assert json.loads((folder / "settings.json").read_text()) == {
        "network": "FrameTransformer",
        "settings": {**SMALL, "residual": False},
        "extra": {"role": "purifier"},
    }
    weights = load_file(folder / "weights.safetensors")
    assert torch.equal(weights["out.weight"], network.out.weight)


def test_the_loaded_network_does_not_hang_on_the_file(folder):
    loaded = load_network(folder).network
    before = loaded.out.weight.detach().clone()
    with (folder / "weights.safetensors").open("r+b") as file:
        file.write(b"\0" * 4_000)
    assert torch.equal(loaded.out.weight, before)


def test_saving_again_replaces_both_files(folder):
    save_network(VGG16(width=1), folder)
    stored = load_network(folder)
    assert isinstance(stored.network, VGG16)
    assert stored.extra == {}
    assert len(list(folder.iterdir())) == 2


# What a folder can be broken with: a function of the folder, and the sentence behind the path.


def remove(name):
    return lambda folder: (folder / name).unlink()


def settings(content):
    """Replace the settings file by text, or by the JSON of anything else."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda folder: (folder / "settings.json").write_bytes(text)


def network_of(name, given):
    return settings({"network": name, "settings": given, "extra": {}})


def truncate(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def weights(change):
    """Rewrite the weights after `change` has edited them."""

    def rewrite(folder):
        tensors = load_file(folder / "weights.safetensors")
        change(tensors)
        save_file(tensors, folder / "weights.safetensors")

    return rewrite


def give_nan(tensors):
    tensors["out.bias"][3] = float("nan")


def give_infinity(tensors):
    tensors["out.bias"][3] = float("inf")


def give_halves(tensors):
    tensors["out.bias"] = tensors["out.bias"].half()


def give_whole_numbers(tensors):
    tensors["out.bias"] = tensors["out.bias"].long()


def give_another_shape(tensors):
    tensors["out.bias"] = torch.zeros(9)


def give_one_more(tensors):
    tensors["zzz"] = torch.zeros(2)


def give_one_less(tensors):
    del tensors["embed.bias"]


KNOWN = "VGG16, ResNet, CRNN, EncoderHead, FrameTransformer, UNet"
MISSING = "no such file; expected a folder written by servax (save_pretrained, servax train)."
CUT = "is not a safetensors file, or is cut short."
FIT = "does not fit its settings: {} tensors differ, the first is {} with shape {}, expected {}."
BROKEN = [
    (remove("settings.json"), "settings.json", MISSING),
    (settings(b""), "settings.json", "is not a JSON file."),
    (settings(b"{'network': 1}"), "settings.json", "is not a JSON file."),
    (settings(b"\xff\xfe\x00"), "settings.json", "is not a JSON file."),
    (settings(b"[" * 100_000), "settings.json", "is not a JSON file."),
    (settings([1, 2]), "settings.json", "does not hold a JSON object."),
    (settings({}), "settings.json", f"names the network None, expected one of {KNOWN}."),
    (settings({"network": []}), "settings.json", f"names the network [], expected one of {KNOWN}."),
    (
        network_of("VGG19", {}),
        "settings.json",
        f"names the network 'VGG19', expected one of {KNOWN}. Did you mean 'VGG16'?",
    ),
    (
        network_of("os.system", {}),
        "settings.json",
        f"names the network 'os.system', expected one of {KNOWN}.",
    ),
    (
        settings({"network": "VGG16"}),
        "settings.json",
        "holds no settings of a VGG16 (a JSON object).",
    ),
    (
        network_of("VGG16", [4, 64]),
        "settings.json",
        "holds no settings of a VGG16 (a JSON object).",
    ),
    (
        network_of("VGG16", {"clases": 4}),
        "settings.json",
        "gives a VGG16 the unknown setting 'clases', expected classes, width. "
        "Did you mean 'classes'?",
    ),
    (
        network_of("FrameTransformer", {**SMALL, "device": "cuda"}),
        "settings.json",
        "gives a FrameTransformer the unknown setting 'device', expected mels, blocks, heads, "
        "feedforward, residual.",
    ),
    (
        network_of("VGG16", {"classes": 10**9}),
        "settings.json",
        "does not describe a VGG16: classes is 1000000000, expected a whole number in [2, 100000].",
    ),
    (
        network_of("VGG16", {"classes": "four"}),
        "settings.json",
        "does not describe a VGG16: classes is 'four', expected a whole number in [2, 100000].",
    ),
    (
        network_of("VGG16", {"width": 2.5}),
        "settings.json",
        "does not describe a VGG16: width is 2.5, expected a whole number in [1, 1024].",
    ),
    (
        network_of("VGG16", {"width": None}),
        "settings.json",
        "does not describe a VGG16: width is None, expected a whole number in [1, 1024].",
    ),
    (
        network_of("FrameTransformer", {**SMALL, "blocks": 10**12}),
        "settings.json",
        "does not describe a FrameTransformer: blocks is 1000000000000, expected a whole number "
        "in [1, 256].",
    ),
    (
        network_of("FrameTransformer", {**SMALL, "heads": 3}),
        "settings.json",
        "does not describe a FrameTransformer: heads is 3, expected a divisor of mels (8).",
    ),
    (
        network_of("FrameTransformer", {**SMALL, "residual": "no"}),
        "settings.json",
        "does not describe a FrameTransformer: residual is 'no', expected true or false.",
    ),
    (
        settings({"network": "FrameTransformer", "settings": SMALL, "extra": "purifier"}),
        "settings.json",
        "holds an `extra` that is not a JSON object.",
    ),
    (
        remove("weights.safetensors"),
        "weights.safetensors",
        "no such file; the weights of this network are missing.",
    ),
    (truncate, "weights.safetensors", CUT),
    (lambda f: (f / "weights.safetensors").write_bytes(b""), "weights.safetensors", CUT),
    (lambda f: (f / "weights.safetensors").write_bytes(b"\x80\x04."), "weights.safetensors", CUT),
    (
        weights(give_nan),
        "weights.safetensors",
        "holds numbers that are not finite in out.bias.",
    ),
    (
        weights(give_infinity),
        "weights.safetensors",
        "holds numbers that are not finite in out.bias.",
    ),
    (
        weights(give_halves),
        "weights.safetensors",
        "holds torch.float16 numbers in out.bias, expected torch.float32.",
    ),
    (
        weights(give_whole_numbers),
        "weights.safetensors",
        "holds torch.int64 numbers in out.bias, expected torch.float32.",
    ),
    (
        weights(give_another_shape),
        "weights.safetensors",
        FIT.format(1, "out.bias", (9,), (8,)),
    ),
    (weights(give_one_more), "weights.safetensors", FIT.format(1, "zzz", (2,), None)),
    (weights(give_one_less), "weights.safetensors", FIT.format(1, "embed.bias", None, (8,))),
    # As large as settings may be (15 GB): no memory is asked for before the file is looked at.
    (
        network_of("VGG16", {"classes": 4, "width": 1024}),
        "weights.safetensors",
        FIT.format(
            98,
            "embed.bias",
            (8,),
            None,
        ),
    ),
]


@pytest.mark.parametrize(("damage", "name", "sentence"), BROKEN)
def test_a_broken_folder_is_refused_in_one_sentence(folder, damage, name, sentence):
    damage(folder)
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{folder / name}: {sentence}')}$"):
        load_network(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "nowhere" / "settings.json"
    with pytest.raises(CheckpointError, match=f"^{re.escape(f'{path}: {MISSING}')}$"):
        load_network(tmp_path / "nowhere")


def test_networks_that_cannot_be_rebuilt_are_not_saved(tmp_path):
    sentence = f"{tmp_path / 'x'}: a Linear cannot be saved, only {KNOWN}."
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        save_network(nn.Linear(1, 1), tmp_path / "x")
    sentence = (
        f"{tmp_path / 'x'}: this VGG16 is not what its settings describe (frozen copies are "
        "folded); save the network that was trained."
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        save_network(frozen(VGG16(width=1)), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, network):
    (tmp_path / "file").write_text("")
    sentence = f"{tmp_path / 'file' / 'x'}: cannot be written (Not a directory)."
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}$"):
        save_network(network, tmp_path / "file" / "x")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_full_disk_leaves_the_old_files_as_they_were(folder):
    before = content(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"saved: cannot be written \(.*File too large"):
            save_network(FrameTransformer(**SMALL), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(folder) == before


def test_weights_are_not_replaced_when_the_settings_cannot_be_written(folder, monkeypatch):
    before = content(folder)

    def fail(path, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    sentence = f"{folder}: cannot be written (No space left on device); free some space and run it"
    with pytest.raises(CheckpointError, match=f"^{re.escape(sentence)}"):
        save_network(FrameTransformer(**SMALL), folder)
    monkeypatch.undo()
    assert content(folder) == before
