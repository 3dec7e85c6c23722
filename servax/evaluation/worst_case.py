"""The worst case of each utterance over all attacks: the robustness that is left.

An attacker picks the attack after seeing the utterance, so an utterance is safe only where every
attack fails. The minimum over attacks of a mean is higher: each attack misses other utterances
(Croce & Hein 2020 report the worst case for this reason).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from servax.errors import ServaxError
from servax.evaluation.records import KEY, validate

WORST_CASE = "worst-case"
"""Name of the attack in the rows of `worst_case`."""


def worst_case(frame: pd.DataFrame, *, knowledge: str | Sequence[str]) -> pd.DataFrame:
    """Return records of the strongest attack on each utterance, attack by name ``worst-case``.

    Args:
        frame: Records, with one or several attacks per system and strength.
        knowledge: What the attacker knows, one name or several, whose attacks are then taken
            together; the rows are labelled with the first.

    Returns:
        One row per utterance, system and strength: a wrong prediction where any attack of that
        strength broke it (that of the first such attack in `frame`), else the right one.

    Raises:
        ServaxError: No attack of this knowledge is in the records.
    """
    names = [knowledge] if isinstance(knowledge, str) else list(knowledge)
    typed = validate(frame)
    rows = typed[typed["knowledge"].isin(names) & (typed["attack"] != "none")]
    if rows.empty:
        raise ServaxError(
            f"the records hold no attack with knowledge {' or '.join(map(repr, names))}; expected "
            f"one of {', '.join(map(str, typed['knowledge'].unique()))}."
        )
    key = [name for name in KEY if name not in ("attack", "knowledge")]
    right = rows["prediction"] == rows["label"]
    # A stable sort puts broken rows first and keeps the order of attacks among them.
    order = right.sort_values(kind="stable").index
    picked = rows.loc[order].drop_duplicates(key).sort_index()
    return validate(picked.assign(attack=WORST_CASE, knowledge=names[0]))
