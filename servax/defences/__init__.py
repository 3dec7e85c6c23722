"""What stands in front of a classifier, or how it is trained: purifiers, controls, objectives."""

from servax.defences.adversarial_objectives import (
    MadryPGD,
    Objective,
    Similarity,
    SingleStep,
    Trades,
    Vanilla,
)
from servax.defences.adversarial_training import (
    SCHEDULES,
    AdversarialTrainer,
    AdversarialTraining,
)
from servax.defences.certificates import ABSTAIN, Certificate, certify, certify_sound
from servax.defences.defended import Bpda, Defended, Detector, Score, StraightThrough, threshold_at
from servax.defences.denoiser import DenoiserTrainer, DenoiserTraining, train_denoiser
from servax.defences.enhancement import DeepFilterNet, RNNoise, SpectralGate
from servax.defences.noise_wiener import NoiseWiener
from servax.defences.random_models import (
    ExpectationOverDraws,
    Mean,
    SameDraws,
    Smoothed,
    draws_until_flat,
    generators_of,
)
from servax.defences.transforms import (
    Codec,
    GaussianNoise,
    LowPass,
    MeanFilter,
    MedianFilter,
    Quantise,
    Resample,
    SpectrogramMasking,
    WhiteNoise,
)

__all__ = [
    "ABSTAIN",
    "SCHEDULES",
    "AdversarialTrainer",
    "AdversarialTraining",
    "Bpda",
    "Certificate",
    "Codec",
    "DeepFilterNet",
    "Defended",
    "DenoiserTrainer",
    "DenoiserTraining",
    "Detector",
    "ExpectationOverDraws",
    "GaussianNoise",
    "LowPass",
    "MadryPGD",
    "Mean",
    "MeanFilter",
    "MedianFilter",
    "NoiseWiener",
    "Objective",
    "Quantise",
    "RNNoise",
    "Resample",
    "SameDraws",
    "Score",
    "Similarity",
    "SingleStep",
    "Smoothed",
    "SpectralGate",
    "SpectrogramMasking",
    "StraightThrough",
    "Trades",
    "Vanilla",
    "WhiteNoise",
    "certify",
    "certify_sound",
    "draws_until_flat",
    "generators_of",
    "threshold_at",
    "train_denoiser",
]
