"""The one rule for sizes in settings that may come from a file."""

from __future__ import annotations

from servax.errors import SettingError


def check_size(name: str, value: object, *, smallest: int = 1, largest: int) -> None:
    """Refuse anything but a whole number in [smallest, largest].

    Upper limits lie far above any use: they keep a hostile settings file from asking for all the
    memory of the machine before its weights are looked at.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole and smallest <= value <= largest):  # type: ignore[operator]
        raise SettingError(name, value, f"a whole number in [{smallest}, {largest}]")
