from .adversarial_objectives import (
    MadryPGD as MadryPGD,
    NoiseTraining as NoiseTraining,
    Objective as Objective,
    Similarity as Similarity,
    SingleStep as SingleStep,
    Trades as Trades,
    Vanilla as Vanilla,
)
from .adversarial_training import (
    SCHEDULES as SCHEDULES,
    AdversarialTrainer as AdversarialTrainer,
    AdversarialTraining as AdversarialTraining,
)
from .certificates import (
    ABSTAIN as ABSTAIN,
    Certificate as Certificate,
    certify as certify,
    certify_sound as certify_sound,
)
from .defended import (
    Bpda as Bpda,
    Defended as Defended,
    Detector as Detector,
    Score as Score,
    StraightThrough as StraightThrough,
    threshold_at as threshold_at,
)
from .denoiser import (
    DenoiserTrainer as DenoiserTrainer,
    DenoiserTraining as DenoiserTraining,
    train_denoiser as train_denoiser,
)
from .encoder_tuning import (
    EncoderTuner as EncoderTuner,
    EncoderTuning as EncoderTuning,
    Sounds as Sounds,
)
from .enhancement import (
    DeepFilterNet as DeepFilterNet,
    RNNoise as RNNoise,
    SpectralGate as SpectralGate,
)
from .noise_wiener import NoiseWiener as NoiseWiener
from .random_models import (
    ExpectationOverDraws as ExpectationOverDraws,
    Mean as Mean,
    SameDraws as SameDraws,
    Smoothed as Smoothed,
    draws_inside as draws_inside,
    draws_until_flat as draws_until_flat,
    generators_of as generators_of,
)
from .transforms import (
    Codec as Codec,
    GaussianNoise as GaussianNoise,
    LowPass as LowPass,
    MeanFilter as MeanFilter,
    MedianFilter as MedianFilter,
    Quantise as Quantise,
    Resample as Resample,
    SpectrogramMasking as SpectrogramMasking,
    WhiteNoise as WhiteNoise,
)
