from .batches import (
    Batch as Batch,
    Dataset as Dataset,
    SpecAugment as SpecAugment,
    augmented as augmented,
    fit_scale as fit_scale,
    roll_frames as roll_frames,
)
from .cache import Features as Features, cache_key as cache_key, extract as extract
from .frontend import (
    FrontEnd as FrontEnd,
    FrontEndSettings as FrontEndSettings,
    fit_frames as fit_frames,
    set_level as set_level,
    waveform_batch as waveform_batch,
)
from .logmel import LogMel as LogMel, LogMelSettings as LogMelSettings
from .resynthesis import (
    Resynthesis as Resynthesis,
    apply_change as apply_change,
    overlap_added as overlap_added,
)
from .scale import (
    SCALES as SCALES,
    Scale as Scale,
    ScaleKind as ScaleKind,
    ScaleSettings as ScaleSettings,
    Scaling as Scaling,
    ZScore as ZScore,
    ZScoreSettings as ZScoreSettings,
    make_scale as make_scale,
)
from .tensors import (
    check_log_mels as check_log_mels,
    check_tensor as check_tensor,
    check_type as check_type,
    check_waveforms as check_waveforms,
)
