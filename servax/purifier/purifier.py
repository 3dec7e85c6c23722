"""A trained purifier with everything it needs to stand in front of a model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from servax.errors import CheckpointError, ServaxError, unwritable
from servax.features import (
    FrontEndSettings,
    Scale,
    Scaling,
    check_log_mels,
    check_type,
    make_scale,
)
from servax.kinds import check, check_kind, check_list, typed
from servax.models import frozen, load_network, save_network
from servax.models.storage import SETTINGS, WEIGHTS
from servax.pretrained import no_such_folder, resolve
from servax.purifier.sound import purify_sound
from servax.purifier.stream import SoundStream
from servax.runtime.rules import HOP_SECONDS, LOOK_AHEAD_SECONDS

ROLE: Literal["purifier"] = "purifier"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
CARD = """---
{{ card_data }}
---

# A purifier of servax

Takes log-Mel spectrograms of speech that may carry an adversarial attack and returns cleaned ones.
It stands in front of a speech emotion recogniser, whose weights it has never seen:

```python
import servax as sx

purifier = sx.Purifier.from_pretrained("path-or-hub-id")
cleaned = purifier.purify(waveform, sample_rate=16_000)
```

`settings.json` holds the network, the scale and the front-end it was trained on{{ heard }}.

**An attacker who knows the purifier takes the protection back.** Measure with `servax audit` what
it is worth before your recogniser, and what it costs on clean speech.

{{ terms }}
"""
NO_LICENCE = (
    "No licence was stated. Weights are as free as the speech they were trained on: ask whoever "
    "published them before use."
)


class Purifier(
    nn.Module,
    ModelHubMixin,
    model_card_template=CARD,
    library_name="servax",
    pipeline_tag="audio-to-audio",
    tags=["adversarial-purification", "speech-emotion-recognition"],
):
    """Maps log-Mel on [0, 1], perhaps attacked, to cleaned log-Mel on [0, 1] (eq. 8).

    Args:
        network: P, from (B, 1, M, F) to the same shape.
        scale: The scale it was trained on.
        front_end: The front-end settings it was trained on.
        speakers: Who was heard in its training, as the corpus names them; empty if nobody knows.

    Example:
        >>> purifier = Purifier.from_pretrained("runs/demo/models/ssad")  # doctest: +SKIP
        >>> cleaned = purifier(x)  # doctest: +SKIP
    """

    @typed
    def __init__(
        self,
        network: nn.Module,
        scale: Scaling,
        front_end: FrontEndSettings | None = None,
        speakers: Iterable[str] = (),
    ) -> None:
        super().__init__()
        check_kind("scale", scale, nn.Module)
        # All that rebuilds a purifier is in settings.json; the mixin would add half of it again.
        self._hub_mixin_config = None
        self.network = network
        self.scale = scale
        self.front_end = FrontEndSettings() if front_end is None else front_end
        check_kind("front_end", self.front_end, FrontEndSettings)
        check_list("speakers", speakers)
        self.speakers = tuple(sorted({str(speaker) for speaker in speakers}))

    def forward(self, x: Tensor) -> Tensor:
        """Return purified log-Mel (B, 1, M, F) on [0, 1]; exact gradients pass through.

        M is that of the front-end it was trained on. The scale is the caller's matter: dB, or any
        value outside [0, 1], is not looked for, since an attacker may ask there.

        Raises:
            ShapeError: `x` is of another shape.
            SettingError: `x` is no floating-point tensor, or of another type than the weights.
        """
        check_log_mels(x, self.front_end.logmel.mels)
        check_type("x", x.dtype, next(self.network.parameters(), x))
        purified: Tensor = self.network(x)
        return purified.clamp(0.0, 1.0)

    def fits(self, scale: Scaling | None, front_end: FrontEndSettings | None) -> bool:
        """Say whether inputs of a scale and a front-end are what it was trained to hear.

        Log-Mel and level must be the same, and so must a step of the scale in dB. Frames, and the
        level that becomes 1, may differ: corpora are then aligned at their loudest.
        """
        ours, other = self.front_end, front_end
        if scale is not None:
            check_kind("scale", scale, nn.Module)
        if other is not None:
            check_kind("front_end", other, FrontEndSettings)
        if other is None or (ours.logmel, ours.level_dbfs) != (other.logmel, other.level_dbfs):
            return False
        if isinstance(scale, Scale) and isinstance(self.scale, Scale):
            return scale.settings.window_db == self.scale.settings.window_db
        return scale is not None and scale.settings == self.scale.settings

    def purify(self, sound: Any, sample_rate: int | None = None) -> Any:
        """Return purified sound of the same form, type, device, length, rate and level.

        Full scale is ±1, or the peak of a sound that goes beyond it; where the change would lift a
        sound above, a limiter lowers it (`servax.runtime.limiter`).

        Time is the last axis. Each channel, and each sound of a batch or list, is purified alone;
        longer ones than the purifier was trained on (about 6 s) in windows that fade into each
        other. No gradient passes: that is `servax.SoundPurifier`.

        Args:
            sound: Samples (T,), (channels, T) or (B, T), at least .05 s: an array or a tensor,
                floating-point with full scale at 1, or uint8, int16 or int32 with that of its
                type; a list of numbers or of sounds; a path or the bytes of a file, whose samples
                come back; or a mapping as of `datasets.Audio` and the pipelines of transformers
                (``array`` or ``raw`` with ``sampling_rate``; ``path``; ``bytes``), which comes back
                with an array and no file.
            sample_rate: In Hz, of samples that do not say it; what lies above the front-end's band
                passes unchanged.

        Raises:
            ShapeError: `sound` is not (..., T) or is too short.
            SettingError: `sound` is none, a sample is not finite, or `sample_rate` is missing,
                outside its rule, or not the one that the sound says.
            AudioError: A file cannot be read.
        """
        return purify_sound(self, sound, sample_rate)

    def stream(
        self,
        sample_rate: int,
        *,
        hop_seconds: float = HOP_SECONDS,
        look_ahead_seconds: float = LOOK_AHEAD_SECONDS,
    ) -> SoundStream:
        """Return a stream that takes chunks of sound and gives purified ones.

        Args:
            sample_rate: Of the chunks, in Hz.
            hop_seconds: From one pass of the purifier to the next.
            look_ahead_seconds: Heard behind a sample before it is given; with `hop_seconds` it is
                the latency.

        Raises:
            SettingError: A rate or a time is outside its rule.
        """
        return SoundStream(
            self, sample_rate, hop_seconds=hop_seconds, look_ahead_seconds=look_ahead_seconds
        )

    def frozen(self) -> Purifier:
        """Return a copy for inference: evaluation mode, no parameter gradients."""
        return Purifier(frozen(self.network), self.scale, self.front_end, self.speakers).eval()

    @typed
    def save_pretrained(self, save_directory: str | Path, **hub: Any) -> str | None:
        """Write weights (safetensors), settings (JSON) and a model card to a folder.

        Args:
            save_directory: Made when missing.
            **hub: Passed on to huggingface_hub (push_to_hub, repo_id, model_card_kwargs ...).

        Raises:
            CheckpointError: The folder cannot be written.
            SettingError: `save_directory` is no path.
        """
        try:
            url: str | None = super().save_pretrained(save_directory, **hub)
        except OSError as error:
            raise CheckpointError(save_directory, unwritable(error)) from None
        return url

    @typed
    def generate_model_card(
        self,
        *,
        license: str | None = None,
        datasets: Iterable[str] = (),
        language: str | None = None,
    ) -> ModelCard:
        """Return the model card; `model_card_kwargs` of the saving methods gives the arguments.

        Args:
            license: As the hub writes it (``apache-2.0``, ``cc-by-nc-sa-4.0``): that of the speech
                it was trained on, since weights are no freer.
            datasets: Names of the corpora of its training.
            language: Of the speech, as a code (``en``).

        Raises:
            SettingError: One of them is of another kind.
        """
        check_list("datasets", datasets)
        names = list(datasets)
        for name in names:
            check("datasets", name, "str")
        data = deepcopy(self._hub_mixin_info.model_card_data)
        for key, value in (("license", license), ("language", language)):
            setattr(data, key, value)
        data.datasets = names or None
        count = len(self.speakers)
        card: ModelCard = ModelCard.from_template(
            card_data=data,
            template_str=CARD,
            heard=f", and the names of the {count} speakers that were heard" if count else "",
            terms=f"Licence of the weights: {license}." if license else NO_LICENCE,
        )
        return card

    def _save_pretrained(self, save_directory: Path) -> None:
        save_network(
            self.network,
            save_directory,
            extra={
                "role": ROLE,
                "scale": asdict(self.scale.settings),
                "front_end": asdict(self.front_end),
                "speakers": list(self.speakers),
            },
        )

    @classmethod
    @typed
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> Purifier:
        """Return the purifier saved in a folder, in the package or on the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: A folder written by `save_pretrained`, else a name of
                `servax.pretrained.names`, else a hub id such as ``user/name``.
            **hub: Passed on to huggingface_hub's `snapshot_download` (revision, token, cache_dir
                ...).

        Raises:
            CheckpointError: There is no such folder or name, the hub does not give it, its files
                are broken, or it holds something else.
        """
        name = os.fspath(pretrained_model_name_or_path)
        folder = resolve(name)
        if not folder.is_dir():
            if not HUB_ID.fullmatch(name):
                raise no_such_folder(
                    name,
                    "one written by Purifier.save_pretrained, a hub id such as user/name",
                    role=ROLE,
                )
            folder = _download(name, hub)
        return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> Purifier:
        stored = load_network(folder)
        role = stored.extra.get("role")
        if role != ROLE:
            held = f"a {role}" if isinstance(role, str) else "a network"
            raise CheckpointError(
                folder, f"holds {held}, expected a purifier written by Purifier.save_pretrained"
            )
        try:
            front_end = FrontEndSettings(**stored.extra["front_end"])
            scale = make_scale(stored.extra["scale"], mels=front_end.logmel.mels)
            # Folders of before this was kept do not say whom they heard.
            speakers = [str(each) for each in stored.extra.get("speakers", ())]
        except ServaxError as error:
            raise CheckpointError(folder / SETTINGS, str(error)) from None
        except (KeyError, TypeError):
            raise CheckpointError(
                folder / SETTINGS, "holds no scale and front-end of a purifier; train it again"
            ) from None
        return cls(stored.network, scale, front_end, speakers).eval()


def _download(model_id: str, hub: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(model_id, allow_patterns=[SETTINGS, WEIGHTS], **hub))
    except (HfHubHTTPError, HFValidationError) as error:
        reason = f"the Hugging Face hub does not give it ({type(error).__name__})"
    except OSError:
        reason = "the Hugging Face hub cannot be reached"
    raise CheckpointError(model_id, f"is no folder here, and {reason}") from None
