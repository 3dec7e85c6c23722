"""``servax calibrate``: which step and radius of PGD fit what the paper says of its attack."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from servax.cli.commands import loaded
from servax.corpora import FoldChoice
from servax.evaluation.settings import CalibrationGrid


@dataclass(frozen=True)
class Calibrate(FoldChoice, CalibrationGrid):
    """Measure what PGD of many steps and radii takes from a recogniser, and choose a pair."""

    model: str
    """Folder of a recogniser trained on the same fold."""
    _: KW_ONLY
    out: str = "runs/calibration"
    """Folder for the curves (CSV), the table (JSON) and the picture (PNG)."""
    utterances: int | None = None
    """How many of the group are attacked, spread evenly; default all."""
    batch_size: int = 16
    """Utterances attacked together."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Sweep the pairs, keep curves, table and picture in `out`, show the table."""
        code: int = loaded("calibrating:calibrate")(self)
        return code
