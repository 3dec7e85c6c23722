"""All that the page shows of a sound, in this process."""

from __future__ import annotations

from servax.service.inference import Models
from servax.service.page.demonstration import (
    Samples,
    Shown,
    ShowSettings,
    attackers,
    attempt,
    listen,
)


def show(models: Models, samples: Samples, rate: int, settings: ShowSettings) -> Shown:
    clip = listen(models, samples, rate)
    attempts = (attempt(models, clip.original, settings, kind) for kind in attackers(settings))
    return Shown(settings, clip, tuple(attempts))
