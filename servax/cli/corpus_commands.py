"""``servax corpus``: what is known of corpora, what is here, folds, download."""

from __future__ import annotations

from servax.cli.options import Groups, Scheme


def corpus_list(json: bool = False) -> int:
    """List the corpora servax knows, and whether they are on this machine.

    Args:
        json: Print JSON.
    """
    from servax.cli.corpora import show_all

    return show_all(as_json=json)


def corpus_info(name: str, json: bool = False) -> int:
    """Tell the story of a corpus: source, licence, speakers, counts.

    Args:
        name: Name of a corpus.
        json: Print JSON.
    """
    from servax.cli.corpora import show_one

    return show_one(name, as_json=json)


def corpus_verify(
    name: str, root: str | None = None, scheme: Scheme = "native", json: bool = False
) -> int:
    """Check counts, readability and duplicates of a corpus against what is known of it.

    Args:
        name: Name of a corpus, or the path of a CSV or Parquet manifest.
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: Label scheme.
        json: Print JSON.
    """
    from servax.cli.corpora import verify

    return verify(name, root=root, scheme=scheme, as_json=json)


def corpus_folds(
    name: str,
    groups: Groups = 6,
    root: str | None = None,
    scheme: Scheme = "four",
    out: str | None = None,
    json: bool = False,
) -> int:
    """Show the folds of a corpus.

    Args:
        name: Name of a corpus, or the path of a CSV or Parquet manifest.
        groups: Number of groups of speakers; or speaker (leaves each out), text (leaves each text
            out; speakers on both sides) or official (the published split).
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: Label scheme.
        out: Folder to store each fold in, as JSON with its hash.
        json: Print JSON.
    """
    from servax.cli.corpora import show_folds

    return show_folds(name, groups, root=root, scheme=scheme, out=out, as_json=json)


def corpus_fetch(
    name: str, root: str | None = None, url: str | None = None, sha256: str | None = None
) -> int:
    """Load a corpus from its public home, with a checksum; an interrupted download goes on.

    Args:
        name: Name of a corpus.
        root: Folder to make; default $SERVAX_DATA/<name>.
        url: Another address of the archive; needs sha256.
        sha256: Checksum of what url serves, in hex.
    """
    from servax.cli.corpora import fetch_corpus

    return fetch_corpus(name, root=root, url=url, sha256=sha256)
