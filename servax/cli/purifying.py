"""``servax purify``: a sound, a folder or a manifest in; purified sound out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from servax.bulk.listing import check_manifest, write_manifest
from servax.bulk.orders import Outcome, plan_purification
from servax.bulk.processes import purify_here
from servax.cli.output import print_json, print_table, say
from servax.cli.summary import as_data, counts, end, refuse_existing, watched
from servax.corpora import is_manifest
from servax.errors import SettingError
from servax.files import expanded, remove_unfinished


def purify_sounds(
    sounds: str,
    purifier: str,
    out: str,
    *,
    overwrite: bool,
    engine: str,
    address: str | None,
    workers: int | None,
    as_json: bool,
) -> int:
    """Purify each sound; one bad file never stops the others."""
    if engine == "local" and address is not None:
        raise SettingError("address", address, "none: it belongs to --engine ray")
    source, target = expanded(sounds), expanded(out)
    one = source.is_file() and not is_manifest(sounds)
    if engine == "local" and workers is not None and one:
        raise SettingError(
            "workers", workers, "none for one sound: it belongs to --engine ray, or to many sounds"
        )
    plan = plan_purification(source, target)
    refuse_existing(plan, source, overwrite=overwrite)
    if plan.rows and not overwrite:
        check_manifest(plan, target)
    remove_unfinished(target)
    if engine == "ray":
        from servax.bulk.ray_engine import purify_on_ray

        outcomes: Iterable[Outcome] = purify_on_ray(
            purifier, plan.orders, overwrite=overwrite, address=address, workers=workers
        )
    else:
        outcomes = purify_here(purifier, plan.orders, overwrite=overwrite, workers=workers)
    told = watched("purifying", plan, outcomes)
    limited = [each for each in told if each.limited_samples]
    floats = sum(each.subtype == "FLOAT" for each in told)
    if as_json:
        print_json({"limited": len(limited), "floats": floats, **as_data(plan, told)})
    elif len(told) > 1:
        _show(told, target, len(limited), floats)
    elif floats:
        say("written as 32-bit floats: the source goes beyond full scale")
    if limited:
        most = max(each.limited_db for each in limited)
        lowered = sum(each.limited_samples for each in limited)
        say(f"limited: {lowered} samples by at most {most:.1f} dB, to stay within full scale")
    code = end(plan, told, target)
    if plan.rows:
        write_manifest(plan, told, target)  # last: whether it can be written, the rest is told
    return code


def _show(told: Sequence[Outcome], target: Path, limited: int, floats: int) -> None:
    count = counts(told)
    seconds = sum(each.seconds for each in told)
    print_table(
        f"Purified into {target}",
        ["", "files", "minutes of sound"],
        [
            ["done", count["done"], f"{seconds / 60:.1f}"],
            ["skipped (there already; --overwrite replaces)", count["skipped"], ""],
            ["failed", count["failed"], ""],
            ["not sound, by their ending", count["not_sound"], ""],
            ["limited (lowered in places, to stay within full scale)", limited, ""],
            ["written as floats (the source is beyond full scale)", floats, ""],
        ],
    )
