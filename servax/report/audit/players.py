"""The clips of an audit as players, grouped by recording."""

from __future__ import annotations

from collections.abc import Sequence

from servax.report.audit.result import KINDS, Clip
from servax.report.players import Player, PlayerGroup, wav

__all__ = ["groups"]


def groups(clips: Sequence[Clip]) -> list[PlayerGroup]:
    """Return the clips of each recording together: by system, clean, attacked, purified."""
    found = []
    for name in dict.fromkeys(clip.utterance for clip in clips):
        of_one = [clip for clip in clips if clip.utterance == name]
        systems = list(dict.fromkeys(clip.system for clip in of_one))
        of_one.sort(key=lambda clip: (systems.index(clip.system), KINDS.index(clip.kind)))
        title = f"{name} (true class {of_one[0].label})"
        found.append(PlayerGroup(title, tuple(map(_player, of_one))))
    return found


def _player(clip: Clip) -> Player:
    return Player(
        clip.kind,
        clip.system,
        clip.prediction,
        clip.prediction == clip.label,
        wav(clip.waveform, clip.sample_rate),
    )
