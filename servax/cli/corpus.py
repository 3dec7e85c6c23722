"""``servax corpus list | info | verify | folds | fetch``."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from servax.cli.output import bar, note, print_json, print_table, say, show
from servax.corpora import NAMES, Corpus, Scheme, data_folder, describe, fetch, load


@dataclass(frozen=True)
class List:
    """List the corpora servax knows, and whether they are on this machine."""

    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Print a table of corpora."""
        rows = [
            {
                "name": name,
                "utterances": sum(description.counts.values()),
                "speakers": len(description.speakers),
                "labels": len(description.labels),
                "licence": description.licence,
                "here": "made on demand"
                if name == "synthetic"
                else ("no", "yes")[(data_folder() / name).is_dir()],
            }
            for name, description in NAMES.items()
        ]
        show(f"corpora (looked for below {data_folder()})", rows, as_json=self.json)
        return 0


@dataclass(frozen=True)
class Info:
    """Tell the story of a corpus: source, licence, speakers, counts."""

    name: str
    """Name of a corpus."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Print the story."""
        d = describe(self.name)
        story: dict[str, Any] = {
            "name": d.name,
            "title": d.title,
            "homepage": d.homepage,
            "licence": d.licence,
            "reference": d.reference,
            "language": d.language,
            "speakers": len(d.speakers),
            "schemes": ", ".join(d.schemes),
            "how to get it": f"servax corpus fetch {self.name}" if d.download else d.by_hand,
            **{f"utterances: {label}": count for label, count in d.counts.items()},
        }
        if self.json:
            print_json(story)
        else:
            print_table(d.title, ["what", "value"], list(story.items()))
        return 0


@dataclass(frozen=True)
class _Chosen:
    name: str
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    _: KW_ONLY
    root: str | None = None
    """Folder of the corpus; default $SERVAX_DATA/<name>."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True)
class Verify(_Chosen):
    """Check counts, readability and duplicates of a corpus against what is known of it."""

    scheme: Scheme = "native"
    """Label scheme."""

    def __call__(self) -> int:
        """Listen to every utterance; exit code 1 when something is wrong."""
        corpus = load(self.name, self.root, scheme=self.scheme)
        with bar(f"listening to {corpus.name}") as update:
            found = corpus.verify(progress=update)
        if self.json:
            told = ("utterances", "speakers", "seconds", "counts", "problems", "known_defects")
            print_json(
                {"corpus": found.name, **{n: getattr(found, n) for n in told}, "ok": found.ok}
            )
            return 0 if found.ok else 1
        rows: list[tuple[str, object]] = [
            ("utterances", found.utterances),
            ("speakers", found.speakers),
            ("hours", f"{found.seconds / 3600:.2f}"),
            *found.counts.items(),
        ]
        print_table(found.name, ["what", "count"], rows)
        for sentence in found.known_defects:
            say(f"known defect: {sentence}")
        for sentence in found.problems:
            say(f"problem: {sentence}")
        say("all is as it should be." if found.ok else f"{len(found.problems)} problems.")
        return 0 if found.ok else 1


@dataclass(frozen=True)
class Folds(_Chosen):
    """Show the folds of a corpus."""

    groups: int | str = 6
    """Number of groups of speakers; or speaker (leaves each out), text (leaves each text out;
    speakers on both sides) or official (the published split)."""
    scheme: Scheme = "four"
    """Label scheme."""
    out: str | None = None
    """Folder to store each fold in, as JSON with its hash."""

    def __call__(self) -> int:
        """Print who is in each part of each fold and, when asked, store the folds."""
        folds = load(self.name, self.root, scheme=self.scheme).folds(self.groups)
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
        if self.out is not None:
            for fold in folds:
                fold.save(Path(self.out) / f"fold-{fold.index + 1}.json")
        show(f"{self.name}: speakers (utterances)", rows, as_json=self.json)
        return 0


def _people(part: Corpus) -> str:
    speakers = list(part.speakers)
    shown = speakers if len(speakers) <= 6 else [*speakers[:3], "…", *speakers[-2:]]
    return f"{' '.join(shown)} ({len(part)})"


@dataclass(frozen=True)
class Fetch:
    """Load a corpus from its public home, with a checksum; an interrupted download goes on."""

    name: str
    """Name of a corpus."""
    root: str | None = None
    """Folder to make; default $SERVAX_DATA/<name>."""
    url: str | None = None
    """Another address of the archive; needs sha256."""
    sha256: str | None = None
    """Checksum of what url serves, in hex."""

    def __call__(self) -> int:
        """Load it and say where it is."""
        with bar(f"loading {self.name}") as update:
            folder = fetch(self.name, self.root, url=self.url, sha256=self.sha256, progress=update)
        note(f"{self.name}: {folder}")
        return 0
