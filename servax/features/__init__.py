"""What models see: differentiable log-Mel, the [0, 1] scale, and batches from a cache."""

from servax.features.batches import Batch, Dataset, SpecAugment, augmented, fit_scale, roll_frames
from servax.features.cache import Features, cache_key, extract
from servax.features.frontend import (
    FrontEnd,
    FrontEndSettings,
    fit_frames,
    set_level,
    waveform_batch,
)
from servax.features.logmel import LogMel, LogMelSettings
from servax.features.resynthesis import Resynthesis, apply_change, overlap_added
from servax.features.scale import (
    SCALES,
    Scale,
    ScaleKind,
    ScaleSettings,
    Scaling,
    ZScore,
    ZScoreSettings,
    make_scale,
)
from servax.features.tensors import (
    check_log_mels,
    check_tensor,
    check_type,
    check_waveforms,
)

__all__ = [
    "SCALES",
    "Batch",
    "Dataset",
    "Features",
    "FrontEnd",
    "FrontEndSettings",
    "LogMel",
    "LogMelSettings",
    "Resynthesis",
    "Scale",
    "ScaleKind",
    "ScaleSettings",
    "Scaling",
    "SpecAugment",
    "ZScore",
    "ZScoreSettings",
    "apply_change",
    "augmented",
    "cache_key",
    "check_log_mels",
    "check_tensor",
    "check_type",
    "check_waveforms",
    "extract",
    "fit_frames",
    "fit_scale",
    "make_scale",
    "overlap_added",
    "roll_frames",
    "set_level",
    "waveform_batch",
]
