"""Recognisers as one hears them: sound in, probabilities out; and folders that hold all of it."""

from servax.recognition.pretrained import HUB_ID, MODEL, Pretrained
from servax.recognition.recogniser import Recogniser, new_recogniser

__all__ = ["HUB_ID", "MODEL", "Pretrained", "Recogniser", "new_recogniser"]
