"""Networks and nothing else: recognisers with taps, purifier and discriminator nets."""

from servax.models.discriminator import Discriminator, DiscriminatorSettings
from servax.models.folding import frozen
from servax.models.storage import Stored, load_network, save_network
from servax.models.transformer import FrameTransformer, FrameTransformerSettings
from servax.models.vgg import TAPS, VGG16, VGG16Settings, feature_extractor
from servax.models.waveform import WaveformClassifier

__all__ = [
    "TAPS",
    "VGG16",
    "Discriminator",
    "DiscriminatorSettings",
    "FrameTransformer",
    "FrameTransformerSettings",
    "Stored",
    "VGG16Settings",
    "WaveformClassifier",
    "feature_extractor",
    "frozen",
    "load_network",
    "save_network",
]
