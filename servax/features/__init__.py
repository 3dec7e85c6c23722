"""What models see: differentiable log-Mel, the [0, 1] scale, and batches from a cache."""

from servax.features.augment import SpecAugment
from servax.features.batches import Batch, Dataset, fit_scale
from servax.features.cache import Features, cache_key, extract
from servax.features.frames import fit_frames
from servax.features.frontend import FrontEnd, FrontEndSettings, set_level, waveform_batch
from servax.features.logmel import LogMel, LogMelSettings
from servax.features.scale import Scale, ScaleSettings
from servax.features.scaling import SCALES, ScaleKind, Scaling, make_scale
from servax.features.tensors import (
    check_log_mels,
    check_tensor,
    check_type,
    check_waveforms,
)
from servax.features.zscore import ZScore, ZScoreSettings

__all__ = [
    "SCALES",
    "Batch",
    "Dataset",
    "Features",
    "FrontEnd",
    "FrontEndSettings",
    "LogMel",
    "LogMelSettings",
    "Scale",
    "ScaleKind",
    "ScaleSettings",
    "Scaling",
    "SpecAugment",
    "ZScore",
    "ZScoreSettings",
    "cache_key",
    "check_log_mels",
    "check_tensor",
    "check_type",
    "check_waveforms",
    "extract",
    "fit_frames",
    "fit_scale",
    "make_scale",
    "set_level",
    "waveform_batch",
]
