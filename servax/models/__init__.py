"""Networks and nothing else: recognisers with taps, purifier and discriminator nets."""

from servax.models.answers import classes_of, evaluating
from servax.models.crnn import CRNN, CRNNSettings
from servax.models.discriminator import Discriminator, DiscriminatorSettings
from servax.models.folding import frozen
from servax.models.resnet import ResNet, ResNetSettings
from servax.models.restorers import RestorerSettings, new_restorer
from servax.models.storage import Stored, load_network, save_network
from servax.models.transformer import FrameTransformer, FrameTransformerSettings
from servax.models.unet import UNet, UNetSettings
from servax.models.vgg import TAPS, VGG16, VGG16Settings, feature_extractor
from servax.models.waveform import WaveformClassifier

__all__ = [
    "CRNN",
    "TAPS",
    "VGG16",
    "CRNNSettings",
    "Discriminator",
    "DiscriminatorSettings",
    "FrameTransformer",
    "FrameTransformerSettings",
    "ResNet",
    "ResNetSettings",
    "RestorerSettings",
    "Stored",
    "UNet",
    "UNetSettings",
    "VGG16Settings",
    "WaveformClassifier",
    "classes_of",
    "evaluating",
    "feature_extractor",
    "frozen",
    "load_network",
    "new_restorer",
    "save_network",
]
