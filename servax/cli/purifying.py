"""``servax purify``: a sound, a folder or a manifest in; purified sound out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from servax.bulk.files import Outcome
from servax.bulk.orders import orders_of, write_manifest
from servax.bulk.processes import purify_here
from servax.cli.output import bar, print_json, print_table, say
from servax.corpora.manifest import is_manifest
from servax.errors import AudioError, SettingError


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
    source, target = Path(sounds).expanduser(), Path(out).expanduser()
    manifest = source.is_file() and is_manifest(sounds)
    if engine == "local" and workers is not None and source.is_file() and not manifest:
        raise SettingError(
            "workers", workers, "none for one sound: it belongs to --engine ray, or to many sounds"
        )
    orders = orders_of(source, target)
    if source.is_file() and not manifest and target.exists() and not overwrite:
        raise AudioError(target, "is there already; add --overwrite to replace it")
    if engine == "ray":
        from servax.bulk.ray_engine import purify_on_ray

        outcomes: Iterable[Outcome] = purify_on_ray(
            purifier, orders, overwrite=overwrite, address=address, workers=workers
        )
    else:
        outcomes = purify_here(purifier, orders, overwrite=overwrite, workers=workers)
    told = _watched(outcomes, len(orders))
    if manifest and any(each.status != "failed" for each in told):
        write_manifest(source, orders, target)
    return _end(told, target, as_json)


def _watched(outcomes: Iterable[Outcome], total: int) -> list[Outcome]:
    told = []
    with bar("purifying") as update:
        update(0, total)
        for outcome in outcomes:
            told.append(outcome)
            update(len(told), total)
    return sorted(told, key=lambda each: each.source)


def _end(told: list[Outcome], target: Path, as_json: bool) -> int:
    count = {s: sum(each.status == s for each in told) for s in ("done", "skipped", "failed")}
    limited = [each for each in told if each.limited_samples]
    floats = sum(each.subtype == "FLOAT" for each in told)
    if as_json:
        print_json(
            {
                **count,
                "limited": len(limited),
                "floats": floats,
                "files": [asdict(each) for each in told],
            }
        )
    elif len(told) > 1:
        seconds = sum(each.seconds for each in told)
        print_table(
            f"Purified into {target}",
            ["", "files", "minutes of sound"],
            [
                ["done", count["done"], f"{seconds / 60:.1f}"],
                ["skipped (there already; --overwrite replaces)", count["skipped"], ""],
                ["failed", count["failed"], ""],
                ["limited (lowered in places, to stay within full scale)", len(limited), ""],
                ["written as floats (the source is beyond full scale)", floats, ""],
            ],
        )
    elif floats:
        say("written as 32-bit floats: the source goes beyond full scale")
    if limited:
        most = max(each.limited_db for each in limited)
        lowered = sum(each.limited_samples for each in limited)
        say(f"limited: {lowered} samples by at most {most:.1f} dB, to stay within full scale")
    for each in told:
        if each.status == "failed":
            say(f"failed: {each.sentence}")
    say(f"{count['done']} done, {count['skipped']} skipped, {count['failed']} failed: {target}")
    return 1 if count["failed"] else 0
