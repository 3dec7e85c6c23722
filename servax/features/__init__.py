"""What models see: differentiable log-Mel, the [0, 1] scale, and batches from a cache."""

from servax.features.augment import SpecAugment
from servax.features.batches import Batch, Dataset, fit_scale
from servax.features.cache import Features, cache_key, extract
from servax.features.frames import fit_frames
from servax.features.frontend import FrontEnd, FrontEndSettings, set_level, waveform_batch
from servax.features.logmel import LogMel, LogMelSettings
from servax.features.scale import Scale, ScaleSettings

__all__ = [
    "Batch",
    "Dataset",
    "Features",
    "FrontEnd",
    "FrontEndSettings",
    "LogMel",
    "LogMelSettings",
    "Scale",
    "ScaleSettings",
    "SpecAugment",
    "cache_key",
    "extract",
    "fit_frames",
    "fit_scale",
    "set_level",
    "waveform_batch",
]
