"""A trained purifier with everything it needs to stand in front of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from torch import Tensor, nn

from servax.features import FrontEndSettings, Scale, Scaling, check_log_mels, check_type
from servax.kinds import check_kind, typed
from servax.models import Stored, frozen
from servax.purifier.sound import purify_sound
from servax.purifier.stream import SoundStream
from servax.recognition import Pretrained
from servax.runtime.rules import HOP_SECONDS, LOOK_AHEAD_SECONDS


class Purifier(
    nn.Module,
    Pretrained,
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

    role = "purifier"
    writer = "Purifier.save_pretrained"
    about = """
# A purifier of servax

Takes log-Mel spectrograms of speech that may carry an adversarial attack and returns cleaned ones.
It stands in front of a speech emotion recogniser, whose weights it has never seen:

```python
import servax as sx

purifier = sx.Purifier.from_pretrained("path-or-hub-id")
cleaned = purifier.purify(waveform, sample_rate=16_000)
```
"""
    caution = (
        "**An attacker who knows the purifier takes the protection back.** Measure with `servax "
        "audit` what\nit is worth before your recogniser, and what it costs on clean speech."
    )

    @typed
    def __init__(
        self,
        network: nn.Module,
        scale: Scaling,
        front_end: FrontEndSettings | None = None,
        speakers: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self._hold(network, scale, front_end, speakers)

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

    @classmethod
    def _of(
        cls, stored: Stored, scale: Scaling, front_end: FrontEndSettings, speakers: list[str]
    ) -> Self:
        return cls(stored.network, scale, front_end, speakers).eval()
