"""All that decides an audit, as options give it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from servax.audit.tiers import TIERS, Budget, Tier
from servax.errors import SettingError
from servax.evaluation.dataset import Selection
from servax.evaluation.threats import KNOWLEDGE, Knowledge
from servax.kinds import check_types
from servax.training import Precision


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What is audited, with what, on what."""

    selection: Selection
    """Which utterances."""
    tier: Tier
    """How much is spent."""
    budget: Budget
    """How far an attacker may go."""
    knowledge: tuple[Knowledge, ...] = KNOWLEDGE
    """Which attackers are tried."""
    seed: int = 0
    """Draws starts, queries and utterances."""
    batch_size: int = 16
    """Utterances attacked together."""
    snr_db: float = 30.0
    """Budget of the attack on the sound: its signal-to-noise ratio at least, in dB."""
    gradients: Precision = "float32"
    """`bfloat16` is the fast mode: predictions stay in float32, and records and report name it."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.tier not in TIERS:
            raise SettingError.choice("tier", self.tier, TIERS)
        if self.batch_size < 1:
            raise SettingError("batch_size", self.batch_size, "a whole number of at least 1")
        if not 0 <= self.snr_db <= 90:
            raise SettingError("snr_db", self.snr_db, "a ratio in [0, 90] dB: 16 bits hold no more")
        if self.gradients not in ("float32", "bfloat16"):
            raise SettingError.choice("gradients", self.gradients, ("float32", "bfloat16"))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        told = asdict(self) | {"knowledge": list(self.knowledge)}
        if self.gradients == "float32":  # audits of before say nothing, and compare
            del told["gradients"]
        return told
