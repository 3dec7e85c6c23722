"""The numbers of the paper, to stand beside ours.

Su & Lee, "Vaccinating SER to Neutralize Adversarial Attacks with Self-Supervised Augmentation
Strategy", Interspeech 2022: Table 1, Figure 2 and section 3.3. IEMOCAP, four classes, ten folds,
attacks on the bare target (oblivious). Its Adv. rows are the similarity objective of [18], one
model for each ε that it was trained with.

The σ of the text are population standard deviations over the intensities of a row: SSAD 1.86 and
2.14 (samples would give 2.08 and 2.39), Adv. under PGD 2.68 (row .012; a sample 2.99). The 4.71
for the best Adv. under FGSM (row .003) is neither: its row gives 4.35, as a sample 4.87. "1.33
points ahead" under FGSM does not follow from the table either, which gives 43.53 − 42.66 = .87.
Where text and table differ, the table counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

__all__ = [
    "CLEAN_UAR",
    "EPSILONS",
    "FIGURE_2",
    "NAME",
    "STEPS",
    "TABLE_1",
    "Protection",
    "Row",
    "Spread",
]

NAME = "paper, IEMOCAP"
"""How a row of the paper is called beside ours."""

CLEAN_UAR = 51.06
"""UAR of the undefended target on clean input, in percent."""

EPSILONS = (0.003, 0.006, 0.009, 0.012, 0.015)
"""ε of FGSM in Table 1, as printed."""

STEPS = (3, 6, 9, 12, 15)
"""k of PGD in Table 1."""


@dataclass(frozen=True)
class Spread:
    """An average with its standard deviation."""

    mean: float
    """Arithmetic mean."""
    sd: float
    """Population standard deviation (divides by n)."""


@dataclass(frozen=True)
class Row:
    """One row of Table 1: UAR in percent."""

    fgsm: tuple[float, ...]
    """By ε, in the order of `EPSILONS`."""
    pgd: tuple[float, ...]
    """By k, in the order of `STEPS`."""

    def at(self, attack: str, strength: float) -> float:
        """Return the UAR under ``fgsm`` or ``pgd`` of a strength; ``nan`` off the paper's grid."""
        grid, values = (EPSILONS, self.fgsm) if attack == "fgsm" else (STEPS, self.pgd)
        found = [v for s, v in zip(grid, values, strict=True) if np.isclose(s, strength)]
        return found[0] if found and attack in ("fgsm", "pgd") else float("nan")

    def over(self, attack: str) -> Spread:
        """Return mean and population sd over the intensities of ``fgsm`` or ``pgd``."""
        values = np.array(self.fgsm if attack == "fgsm" else self.pgd)
        return Spread(float(values.mean()), float(values.std()))


TABLE_1 = MappingProxyType(
    {
        "adversarial-similarity-0.003": Row(
            (49.03, 45.59, 42.51, 39.43, 36.73), (32.53, 24.09, 21.72, 21.43, 21.31)
        ),
        "adversarial-similarity-0.006": Row(
            (42.03, 40.28, 38.12, 36.10, 34.29), (31.02, 25.76, 24.71, 24.18, 24.18)
        ),
        "adversarial-similarity-0.009": Row(
            (42.95, 40.40, 38.50, 36.47, 34.98), (32.08, 24.37, 23.02, 22.63, 22.41)
        ),
        "adversarial-similarity-0.012": Row(
            (45.36, 43.44, 41.71, 39.77, 37.86), (35.28, 29.98, 28.57, 28.38, 28.18)
        ),
        "adversarial-similarity-0.015": Row(
            (43.39, 41.78, 40.34, 38.63, 37.34), (35.07, 29.72, 28.53, 28.21, 28.12)
        ),
        "ssad": Row((45.94, 44.82, 43.54, 42.88, 40.46), (39.10, 34.91, 33.21, 33.54, 34.19)),
    }
)
"""Table 1, by the name that our records give to the same defence."""


@dataclass(frozen=True)
class Protection:
    """Averages over PGD of k = 1 … 30, as the text of section 3.3.2 gives them."""

    efficacy: Spread
    """PE, equation 12."""
    recovery: Spread
    """RR, equation 13."""


FIGURE_2 = MappingProxyType(
    {
        "ssad": Protection(Spread(0.440, 0.083), Spread(0.19, 0.032)),
        "adversarial-similarity": Protection(Spread(0.198, 0.052), Spread(0.15, 0.054)),
    }
)
"""Figure 2. The paper calls the second "the baseline model" and does not say which of the five; we
compare with the one that is best under PGD."""
