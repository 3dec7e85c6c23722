"""Networks and nothing else: recognisers with taps, purifier and discriminator nets."""

from servax.models.classifier import (
    Layers,
    WaveformClassifier,
    channels_last,
    classes_of,
    evaluating,
    frozen,
)
from servax.models.discriminator import Discriminator, DiscriminatorSettings
from servax.models.encoder import (
    EncoderClassifier,
    EncoderHead,
    SpeechEncoder,
    open_encoder,
)
from servax.models.recognisers import (
    CRNN,
    RECOGNISERS,
    TAPS,
    VGG16,
    NetworkName,
    RecogniserNetwork,
    RecogniserSettings,
    ResNet,
    feature_extractor,
)
from servax.models.smoothed import Noise, SmoothedClassifier
from servax.models.storage import (
    RestorerSettings,
    Stored,
    load_network,
    new_restorer,
    save_network,
)
from servax.models.transformer import FrameTransformer, FrameTransformerSettings
from servax.models.unet import UNet, UNetSettings

__all__ = [
    "CRNN",
    "RECOGNISERS",
    "TAPS",
    "VGG16",
    "Discriminator",
    "DiscriminatorSettings",
    "EncoderClassifier",
    "EncoderHead",
    "FrameTransformer",
    "FrameTransformerSettings",
    "Layers",
    "NetworkName",
    "Noise",
    "RecogniserNetwork",
    "RecogniserSettings",
    "ResNet",
    "RestorerSettings",
    "SmoothedClassifier",
    "SpeechEncoder",
    "Stored",
    "UNet",
    "UNetSettings",
    "WaveformClassifier",
    "channels_last",
    "classes_of",
    "evaluating",
    "feature_extractor",
    "frozen",
    "load_network",
    "new_restorer",
    "open_encoder",
    "save_network",
]
