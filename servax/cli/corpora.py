"""``servax corpus list | info | verify | folds | fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servax.cli.options import Groups
from servax.cli.output import bar, print_json, print_table, say
from servax.corpora import NAMES, Corpus, data_folder, describe, fetch, load


def show_all(*, as_json: bool) -> int:
    """List corpora."""
    rows = [
        {
            "name": name,
            "utterances": sum(description.counts.values()),
            "speakers": len(description.speakers),
            "labels": len(description.labels),
            "licence": description.licence,
            "here": "made on demand" if name == "synthetic" else _here(name),
        }
        for name, description in NAMES.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(
            f"corpora (looked for below {data_folder()})",
            list(rows[0]),
            [list(row.values()) for row in rows],
        )
    return 0


def _here(name: str) -> str:
    return "yes" if (data_folder() / name).is_dir() else "no"


def show_one(name: str, *, as_json: bool) -> int:
    """Tell a corpus' story."""
    d = describe(name)
    story: dict[str, Any] = {
        "name": d.name,
        "title": d.title,
        "homepage": d.homepage,
        "licence": d.licence,
        "reference": d.reference,
        "language": d.language,
        "speakers": len(d.speakers),
        "schemes": ", ".join(d.schemes),
        "how to get it": f"servax corpus fetch {name}" if d.download else d.by_hand,
        **{f"utterances: {label}": count for label, count in d.counts.items()},
    }
    if as_json:
        print_json(story)
    else:
        print_table(d.title, ["", "value"], list(story.items()))
    return 0


def verify(name: str, *, root: str | None, scheme: str, as_json: bool) -> int:
    """Check a corpus; exit code 1 when something is wrong."""
    corpus = load(name, root, scheme=scheme)
    with bar(f"listening to {corpus.name}") as update:
        found = corpus.verify(progress=update)
    if as_json:
        print_json(
            {
                "corpus": found.name,
                "utterances": found.utterances,
                "speakers": found.speakers,
                "seconds": found.seconds,
                "counts": dict(found.counts),
                "problems": list(found.problems),
                "known_defects": list(found.known_defects),
                "ok": found.ok,
            }
        )
        return 0 if found.ok else 1
    rows: list[tuple[str, object]] = [
        ("utterances", found.utterances),
        ("speakers", found.speakers),
        ("hours", f"{found.seconds / 3600:.2f}"),
        *found.counts.items(),
    ]
    print_table(found.name, ["", "count"], rows)
    for sentence in found.known_defects:
        say(f"known defect: {sentence}")
    for sentence in found.problems:
        say(f"problem: {sentence}")
    say("all is as it should be." if found.ok else f"{len(found.problems)} problems.")
    return 0 if found.ok else 1


def show_folds(
    name: str,
    groups: Groups,
    *,
    root: str | None,
    scheme: str,
    out: str | None,
    as_json: bool,
) -> int:
    """Show folds and, when asked, store them."""
    folds = load(name, root, scheme=scheme).folds(groups)
    rows = [
        {
            "fold": fold.index + 1,
            "test": _people(fold.test),
            "validation": _people(fold.validation),
            "train": _people(fold.train),
            "hash": fold.hash[:16],
        }
        for fold in folds
    ]
    if out is not None:
        for fold in folds:
            fold.save(Path(out) / f"fold-{fold.index + 1}.json")
    if as_json:
        print_json(rows)
    else:
        print_table(
            f"{name}: speakers (utterances)", list(rows[0]), [list(r.values()) for r in rows]
        )
    return 0


def _people(part: Corpus) -> str:
    speakers = list(part.speakers)
    shown = speakers if len(speakers) <= 6 else [*speakers[:3], "…", *speakers[-2:]]
    return f"{' '.join(shown)} ({len(part)})"


def fetch_corpus(name: str, *, root: str | None, url: str | None, sha256: str | None) -> int:
    """Load a corpus."""
    with bar(f"loading {name}") as update:
        folder = fetch(name, root, url=url, sha256=sha256, progress=update)
    say(f"{name}: {folder}")
    return 0
