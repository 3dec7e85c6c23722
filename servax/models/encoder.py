"""A speech encoder of Hugging Face transformers with a small head, from waveforms to logits.

```
sound (B, T) ─ level ─ encoder's own input ─ layers 1 … n ─ mean, deviation ─ weights ─ linear
```

Whisper, wav2vec 2.0, HuBERT, WavLM and their kin, by name or folder (extra ``hf``); layers above
the last one used are neither loaded nor computed. All of it is torch, so gradients reach the sound.
The encoder stays as it was published; what is trained is the head: one weight for each layer
(softmax, as in SUPERB, Yang et al. 2021) and a linear layer over the weighted statistics.

Differs from SUPERB: statistics are standardised for each layer by the training utterances, and the
deviation over frames stands beside the mean.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from servax.errors import CheckpointError, SettingError, ShapeError, unwritable
from servax.features import check_type, check_waveforms, set_level
from servax.features.whisper import LONGEST, SAMPLE_RATE, WhisperLogMel
from servax.files import whole_file
from servax.kinds import check_size
from servax.runtime.host import load_extra, quiet

LEVEL_DBFS = -26.0
"""RMS level that each sound is brought to."""
SHORTEST = SAMPLE_RATE // 20
"""Samples of the shortest sound."""
ONLY_IN_TRAINING = "masked_spec_embed"
"""A weight that hides frames during training; it is missing from many published models."""
WHISPER_NAMES = {r"^(?:model\.)?encoder\.": ""}
"""What stands before the names of the encoder's weights in files of the whole of Whisper."""


class SpeechEncoder(nn.Module):
    """The first layers of an encoder: from waveforms (B, T) at 16 kHz to statistics of each layer.

    Args:
        network: The encoder of transformers, cut behind the last layer that is used.
        extractor: The feature extractor that is published with it.
        place: Folder or hub id that it came from.
    """

    def __init__(self, network: nn.Module, extractor: Any, place: str) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.extractor = extractor
        self.place = place
        config: Any = network.config
        self.width, self.depth = int(config.hidden_size), int(config.num_hidden_layers)

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, first to last."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Stay as in evaluation: what drops or masks frames would change what a head learns."""
        del mode
        return super().train(False)

    def states(self, waveform: Tensor) -> Sequence[Tensor]:
        """Return the output of each layer, (B, N, D), of sound (B, T).

        N is the number of frames that the sound reaches, about 50 a second.
        """
        raise NotImplementedError

    def forward(self, waveform: Tensor) -> Tensor:
        """Return mean and standard deviation over frames of each layer.

        Args:
            waveform: (B, T) from .05 to 30 s; brought to one level first.

        Returns:
            (B, depth, 2 * D): the means of a layer, then its deviations.

        Raises:
            ShapeError: The sound is not (B, T), or is too short or too long.
            SettingError: It is of another type than the weights.
        """
        check_waveforms(waveform)
        if not SHORTEST <= waveform.shape[1] <= LONGEST:
            expected = f"(B, T) with T from {SHORTEST} to {LONGEST} (.05 to 30 s)"
            raise ShapeError("waveform", waveform.shape, expected)
        check_type("waveform", waveform.dtype, next(self.network.parameters()))
        found = []
        for state in self.states(set_level(waveform, LEVEL_DBFS)):
            variance, mean = torch.var_mean(state, dim=1, correction=0)
            found.append(torch.cat([mean, (variance + 1e-8).sqrt()], dim=1))
        return torch.stack(found, dim=1)

    def save(self, folder: Path) -> None:
        """Write the layers that are used to a folder, as `open_encoder` reads it.

        Raises:
            CheckpointError: The folder cannot be written.
        """
        config: Any = self.network.config
        tensors = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        try:
            config.save_pretrained(folder)
            self.extractor.save_pretrained(folder)
            with whole_file(folder / "model.safetensors") as part:
                part.write_bytes(save(tensors, {"format": "pt"}))
        except OSError as error:
            raise CheckpointError(folder, unwritable(error)) from None

    @property
    def sha256(self) -> str:
        """Hash of the weights, wherever and in however many files they lie."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            if not name.endswith(ONLY_IN_TRAINING):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


class WhisperStates(SpeechEncoder):
    """Whisper's encoder with its positions cut to the sound, instead of 30 s of mostly silence."""

    def __init__(self, network: nn.Module, extractor: Any, place: str) -> None:
        super().__init__(network, extractor, place)
        config: Any = network.config
        self.logmel = WhisperLogMel(config.num_mel_bins)

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, first to last."""
        found: nn.ModuleList = self.network.layers  # type: ignore[assignment]
        return found

    def states(self, waveform: Tensor) -> Sequence[Tensor]:
        """Return the states of 2 frames of 10 ms each."""
        network: Any = self.network
        gelu = nn.functional.gelu
        x = gelu(network.conv2(gelu(network.conv1(self.logmel(waveform))))).transpose(1, 2)
        x, found = x + network.embed_positions.weight[: x.shape[1]], []
        for layer in network.layers:
            x = layer(x, None)
            found.append(x)
        return found


class RawStates(SpeechEncoder):
    """An encoder of raw sound: wav2vec 2.0, HuBERT, WavLM, data2vec, UniSpeech."""

    def __init__(self, network: nn.Module, extractor: Any, place: str) -> None:
        super().__init__(network, extractor, place)
        if getattr(network.config, "do_stable_layer_norm", False):
            inner: Any = network.encoder
            # It belongs behind the last layer of the whole encoder, not behind the last one used.
            inner.layer_norm.forward = nn.Identity().forward

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, first to last."""
        network: Any = self.network
        found: nn.ModuleList = network.encoder.layers
        return found

    def states(self, waveform: Tensor) -> Sequence[Tensor]:
        """Return the states as `output_hidden_states` of transformers gives them."""
        if self.extractor.do_normalize:
            waveform = standardised(waveform)
        found: Sequence[Tensor] = self.network(waveform, output_hidden_states=True).hidden_states
        return found[1:]  # without the input of the first layer


@dataclass(frozen=True)
class EncoderHeadSettings:
    """What rebuilds a head."""

    classes: int
    """Number of classes."""
    width: int
    """Width D of the encoder's layers."""
    layers: int
    """How many layers of the encoder are weighed."""

    def __post_init__(self) -> None:
        check_size("classes", self.classes, smallest=2, largest=100_000)
        check_size("width", self.width, largest=100_000)
        check_size("layers", self.layers, largest=1_000)


class EncoderHead(nn.Module):
    """Maps statistics (B, L, 2 D) of L layers to logits (B, C).

    Args:
        classes: C.
        width: D.
        layers: L.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, classes: int, width: int, layers: int) -> None:
        super().__init__()
        self.settings = EncoderHeadSettings(classes, width, layers)
        self.register_buffer("centre", torch.zeros(layers, 2 * width))
        self.register_buffer("spread", torch.ones(layers, 2 * width))
        self.weights = nn.Parameter(torch.zeros(layers))
        self.linear = nn.Linear(2 * width, classes)

    def standardise(self, statistics: Tensor) -> None:
        """Take mean and deviation of training statistics (N, L, 2 D), to be undone in `forward`."""
        spread, centre = torch.std_mean(statistics, dim=0, correction=0)
        self.centre.copy_(centre)
        self.spread.copy_(spread.clamp(min=1e-6))

    def forward(self, statistics: Tensor) -> Tensor:
        """Return logits (B, C) of statistics (B, L, 2 D)."""
        standard = (statistics - self.centre) / self.spread
        weighted = torch.einsum("l,bld->bd", self.weights.softmax(dim=0), standard)
        logits: Tensor = self.linear(weighted)
        return logits


class EncoderClassifier(nn.Module):
    """Maps waveforms (B, T) at 16 kHz to logits (B, C), differentiably.

    Args:
        encoder: What hears.
        head: What it is taken for.

    Raises:
        SettingError: The head was made for another encoder.
    """

    def __init__(self, encoder: SpeechEncoder, head: EncoderHead) -> None:
        super().__init__()
        s, expected = head.settings, (encoder.width, encoder.depth)
        if (s.width, s.layers) != expected:
            raise SettingError("width, layers of the head", (s.width, s.layers), f"{expected}")
        self.encoder, self.head = encoder, head

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return logits (B, C) of waveforms (B, T).

        Sounds of one length are heard together, apart from those of other lengths: neither what
        fills a row nor its neighbours can change an answer, whatever the encoder does with them.

        Args:
            waveform: The sounds, each filled up to T.
            lengths: How many samples of each are sound, (B,) whole numbers; default T.
        """
        if lengths is None:
            return self.heard(waveform)
        rows = [(lengths == length).nonzero().flatten() for length in lengths.unique()]  # type: ignore[no-untyped-call]
        found = [self.heard(waveform[r, : int(lengths[r[0]])]) for r in rows]
        return torch.cat(found)[torch.cat(rows).argsort()]

    def heard(self, sound: Tensor) -> Tensor:
        """Return logits (B, C) of sounds (B, T) of one length."""
        logits: Tensor = self.head(self.encoder(sound))
        return logits


def standardised(waveform: Tensor) -> Tensor:
    """Return sounds (B, T) with zero mean and unit variance, `Wav2Vec2FeatureExtractor` in torch.

    ``(x - mean) / sqrt(var + 1e-7)``, of each sound alone.
    """
    mean = waveform.mean(dim=1, keepdim=True)
    variance = waveform.var(dim=1, keepdim=True, correction=0)
    return (waveform - mean) / torch.sqrt(variance + 1e-7)


def made_up(found: dict[str, Any]) -> list[str]:
    """Return the weights that transformers made up since a file lacks them, by name.

    A model with such weights hears or says nothing that was learned.

    Args:
        found: What ``from_pretrained(…, output_loading_info=True)`` tells.
    """
    names = [*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])]
    return sorted(name for name in names if not name.endswith(ONLY_IN_TRAINING))


def open_encoder(place: str, *, layers: int | None = None) -> SpeechEncoder:
    """Return the first layers of an encoder, its weights in float32, without gradients.

    No code of the place runs, and weights are read from safetensors only.

    Args:
        place: A folder, or a hub id such as ``openai/whisper-tiny.en``, of transformers.
        layers: How many layers; default three quarters of them, since the last ones know what was
            said rather than how.

    Raises:
        ServaxError: transformers is not installed.
        CheckpointError: There is no such encoder, or it is broken, or of a kind unknown here.
        SettingError: It has fewer layers.
    """
    transformers = load_extra("transformers", extra="hf", what="a speech encoder")
    try:
        with _silent(transformers):
            config = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
            extractor = transformers.AutoFeatureExtractor.from_pretrained(place)
    except Exception as error:  # transformers lets through what its many readers raise.
        raise _unreadable(place, error) from error
    whisper = config.model_type == "whisper"
    raw = type(extractor).__name__ == "Wav2Vec2FeatureExtractor"
    if not (whisper or raw) or extractor.sampling_rate != SAMPLE_RATE:
        raise CheckpointError(
            place,
            f"is a {config.model_type} that hears {type(extractor).__name__} at "
            f"{extractor.sampling_rate} Hz, expected Whisper or an encoder of raw sound (wav2vec "
            f"2.0, HuBERT, WavLM) at {SAMPLE_RATE} Hz",
        )
    whole = config.encoder_layers if whisper else config.num_hidden_layers
    if layers is not None and not 1 <= layers <= whole:
        raise SettingError("layers", layers, f"from 1 to {whole}, the layers of {place}")
    used = layers or math.ceil(0.75 * whole)
    config.num_hidden_layers = used
    if whisper:
        config.encoder_layers = used
    home = transformers.models.whisper.modeling_whisper if whisper else transformers
    kind = home.WhisperEncoder if whisper else home.AutoModel
    given: dict[str, Any] = {"key_mapping": WHISPER_NAMES} if whisper else {}
    # Not the type that the config names: weights that were tuned may be finer than it.
    given |= {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    try:
        with _silent(transformers):
            network, found = kind.from_pretrained(place, config=config, **given)
    except Exception as error:
        raise _unreadable(place, error) from error
    lacking = made_up(found)
    if lacking:
        told = f"lacks {len(lacking)} weights of its encoder, the first is {lacking[0]}"
        raise CheckpointError(place, told)
    return (WhisperStates if whisper else RawStates)(network, extractor, place)


def _unreadable(place: str, error: Exception) -> CheckpointError:
    told = " ".join(f"{type(error).__name__}: {error}".split())
    return CheckpointError(
        place,
        f"transformers cannot read it ({told}); expected a folder or hub id of a speech encoder "
        "with config.json, preprocessor_config.json and model.safetensors",
    )


@contextmanager
def _silent(transformers: Any) -> Iterator[None]:
    """Draw nothing from the global generator, and say nothing of weights that are not wanted."""
    speech = transformers.utils.logging
    said, showed = speech.get_verbosity(), speech.is_progress_bar_enabled()
    speech.set_verbosity_error()
    speech.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), quiet():
            yield
    finally:
        speech.set_verbosity(said)
        if showed:
            speech.enable_progress_bar()
