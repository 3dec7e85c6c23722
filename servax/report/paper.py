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

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

NAME = "paper, IEMOCAP"
"""How a row of the paper is called beside ours."""
CLEAN_UAR = 51.06
"""UAR of the undefended target on clean input, in percent."""
GRID = MappingProxyType(
    {"fgsm": (0.003, 0.006, 0.009, 0.012, 0.015), "pgd": (3.0, 6.0, 9.0, 12.0, 15.0)}
)
"""Intensities of Table 1: ε of FGSM as printed, k of PGD."""
TABLE_1 = MappingProxyType(
    {
        "adversarial-similarity-0.003": {
            "fgsm": (49.03, 45.59, 42.51, 39.43, 36.73),
            "pgd": (32.53, 24.09, 21.72, 21.43, 21.31),
        },
        "adversarial-similarity-0.006": {
            "fgsm": (42.03, 40.28, 38.12, 36.10, 34.29),
            "pgd": (31.02, 25.76, 24.71, 24.18, 24.18),
        },
        "adversarial-similarity-0.009": {
            "fgsm": (42.95, 40.40, 38.50, 36.47, 34.98),
            "pgd": (32.08, 24.37, 23.02, 22.63, 22.41),
        },
        "adversarial-similarity-0.012": {
            "fgsm": (45.36, 43.44, 41.71, 39.77, 37.86),
            "pgd": (35.28, 29.98, 28.57, 28.38, 28.18),
        },
        "adversarial-similarity-0.015": {
            "fgsm": (43.39, 41.78, 40.34, 38.63, 37.34),
            "pgd": (35.07, 29.72, 28.53, 28.21, 28.12),
        },
        "ssad": {
            "fgsm": (45.94, 44.82, 43.54, 42.88, 40.46),
            "pgd": (39.10, 34.91, 33.21, 33.54, 34.19),
        },
    }
)
"""Table 1: UAR in percent by intensity, by the name that our records give to the same defence."""
FIGURE_2 = MappingProxyType(
    {
        "ssad": {"PE": (0.440, 0.083), "RR": (0.19, 0.032)},
        "adversarial-similarity": {"PE": (0.198, 0.052), "RR": (0.15, 0.054)},
    }
)
"""PE and RR (equations 12 and 13), mean and sd over PGD of k = 1 … 30, as section 3.3.2 has them.
The paper calls the second "the baseline model" and does not say which of the five; we compare with
the one that is best under PGD."""


def uar(defence: str, attack: str, strengths: Sequence[float]) -> tuple[float, float]:
    """Return mean and population sd over intensities, in percent, as Table 1 has them.

    The sd of one intensity is ``nan``, and so are both where the table has not that intensity, or
    where several are not all that it has.
    """
    nothing = float("nan")
    grid, row = GRID.get(attack, ()), TABLE_1.get(defence, {}).get(attack, ())
    found = [v for s in strengths for g, v in zip(grid, row, strict=False) if np.isclose(g, s)]
    if len(found) != len(strengths) or len(found) not in (1, len(grid)):
        return nothing, nothing
    return float(np.mean(found)), float(np.std(found)) if len(found) > 1 else nothing
