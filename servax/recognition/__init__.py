"""Recognisers as one hears them: sound in, probabilities out; and folders that hold all of it."""

from servax.recognition.pretrained import HUB_ID, MODEL, Pretrained
from servax.recognition.recogniser import EncoderRecogniser, Recogniser, new_recogniser

__all__ = ["HUB_ID", "MODEL", "EncoderRecogniser", "Pretrained", "Recogniser", "new_recogniser"]
