"""``servax certify``: what no attack can change, proved by noise."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from servax.cli.commands import loaded
from servax.corpora import Scheme, Selection
from servax.evaluation.settings import Certifying


@dataclass(frozen=True)
class Certify(Certifying, Selection):
    """Prove for a model of sound which answers no attack can change, up to which loudness.

    What answers is a vote: each utterance is brought to one level, white noise is added, and the
    class that the model gives most often wins (randomised smoothing, Cohen et al. 2019). Utterances
    already done are not heard again. A class path runs the code it names.
    """

    model: str
    """A model of sound, as of servax audit; best one that was trained with noise."""
    _: KW_ONLY
    corpus: str = "ravdess"
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    scheme: Scheme = "four"
    """Label scheme."""
    utterances: int | None = 40
    """Most utterances, classes and speakers in equal shares."""
    between: str | None = None
    """What stands between the noise and the model, as of servax audit --defences."""
    batch_size: int = 25
    """Noisy copies in one pass."""
    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto for CUDA where there is one."""
    out: str = "runs/certificate"
    """Folder for the answers (CSV), the shares (JSON) and the picture (PNG)."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Certify each utterance, keep answers, shares and picture in `out`, show the shares."""
        code: int = loaded("certificates:certify")(self)
        return code
