"""The networks of a service: the recogniser it answers for, and the purifier in front of it."""

from __future__ import annotations

from dataclasses import dataclass

from servax.errors import SettingError
from servax.purifier import Purifier
from servax.recognition import Recogniser


@dataclass(frozen=True)
class Models:
    """A purifier and a recogniser that fit each other, both for inference on the CPU."""

    purifier: Purifier
    recogniser: Recogniser

    @classmethod
    def load(cls, purifier: str, recogniser: str) -> Models:
        """Return networks read from folders, packaged names or (a purifier) a hub id.

        Raises:
            CheckpointError: There is no such network, or it is broken.
            SettingError: The purifier was not trained for what the recogniser hears.
        """
        heard = Recogniser.from_pretrained(recogniser)
        heard.network.eval().requires_grad_(False)
        cleaner = Purifier.from_pretrained(purifier).frozen()
        if not cleaner.fits(heard.scale, heard.front_end):
            raise SettingError(
                "purifier", purifier, f"one trained on the log-Mel and scale of {recogniser}"
            )
        return cls(cleaner, heard)
