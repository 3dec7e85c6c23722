from .classifier import (
    Layers as Layers,
    WaveformClassifier as WaveformClassifier,
    channels_last as channels_last,
    check_finite as check_finite,
    classes_of as classes_of,
    evaluating as evaluating,
    frozen as frozen,
)
from .discriminator import (
    Discriminator as Discriminator,
    DiscriminatorSettings as DiscriminatorSettings,
)
from .encoder import (
    EncoderClassifier as EncoderClassifier,
    EncoderHead as EncoderHead,
    SpeechEncoder as SpeechEncoder,
    open_encoder as open_encoder,
)
from .recognisers import (
    CRNN as CRNN,
    RECOGNISERS as RECOGNISERS,
    TAPS as TAPS,
    VGG16 as VGG16,
    NetworkName as NetworkName,
    RecogniserNetwork as RecogniserNetwork,
    RecogniserSettings as RecogniserSettings,
    ResNet as ResNet,
    feature_extractor as feature_extractor,
)
from .smoothed import (
    Noise as Noise,
    SmoothedClassifier as SmoothedClassifier,
    log_mean as log_mean,
)
from .storage import (
    RestorerSettings as RestorerSettings,
    Stored as Stored,
    load_network as load_network,
    new_restorer as new_restorer,
    save_network as save_network,
)
from .transformer import (
    FrameTransformer as FrameTransformer,
    FrameTransformerSettings as FrameTransformerSettings,
)
from .unet import UNet as UNet, UNetSettings as UNetSettings
