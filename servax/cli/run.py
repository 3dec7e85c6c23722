"""``servax demo | run | report``. What computes is loaded when it does: help comes at once."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from servax.cli.commands import operand
from servax.cli.output import note
from servax.errors import SettingError

DEMO = "demo.yaml"


@dataclass(frozen=True)
class Demo:
    """Tell the whole story on the embedded synthetic corpus, in minutes, ending in a report."""

    _: KW_ONLY
    out: str = "runs/demo"
    """Folder of the run; an interrupted demo goes on where it stopped."""
    jobs: int = 2
    """How many stages are performed at once, each on one CPU; the figures are the same."""
    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> int:
        """Run the recipe that stands in the package."""
        from servax.cli import results
        from servax.experiments import load_recipe
        from servax.stages import ProcessEngine

        engine = ProcessEngine(self.jobs)
        with as_file(files("servax.experiments") / DEMO) as path:
            recipe = load_recipe(path)
        note(
            "The demo speaks a synthetic corpus: its figures show that the system works, nothing "
            "more."
        )
        return results.finished(recipe, self.out, as_json=self.json, engine=engine)


@dataclass(frozen=True)
class Run:
    """Run a recipe: train, purify, attack, score, report. Stages already done are not repeated."""

    recipe: str
    """YAML file, e.g. recipes/ravdess_quick.yaml."""
    _: KW_ONLY
    out: str | None = None
    """Folder of the run, or a URL that fsspec can write (s3://bucket/run, sftp://host/run); default
    runs/<name of the recipe>."""
    engine: Literal["local", "ray"] = "local"
    """local performs stages on this machine, one after another unless --jobs says otherwise; ray
    performs all that are ready at once, here or on a cluster (the extra ray)."""
    jobs: int = 1
    """How many stages are performed at once, in processes of this machine; each takes the CPUs that
    the recipe gives it (resources), one by default."""
    address: str | None = None
    """HOST:PORT of the head of a Ray cluster to join, or auto for that of this machine; default
    starts Ray here. Every machine needs servax and the recordings."""
    dry_run: bool = False
    """Show the stages, what is done already and how long the rest may take; run nothing."""
    status: bool = False
    """Show how far a run in progress or a past one is; run nothing, touch nothing."""
    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> int:
        """Run the recipe, or show its stages."""
        from servax.cli import results, status
        from servax.experiments import load_recipe
        from servax.stages import Engine, ProcessEngine, RayEngine, is_url, mirror, without_password

        if self.dry_run and self.status:
            expected = "one of --dry-run and --status, not both"
            raise SettingError("status", self.status, expected)
        looks = self.dry_run or self.status
        if self.address is not None and self.engine != "ray" and not looks:
            expected = "--engine ray beside it: only Ray joins a cluster"
            raise SettingError("address", self.address, expected)
        if self.jobs != 1 and self.engine == "ray":
            expected = "none beside --engine ray, which performs as many as fit"
            raise SettingError("jobs", self.jobs, expected)
        recipe = load_recipe(self.recipe)
        place = self.out or str(Path("runs") / recipe.name)
        if looks:
            folder = mirror(place) if is_url(place) else Path(place)
            shown = without_password(place)
            return status.show(recipe, shown, folder, status=self.status, as_json=self.json)
        engine: Engine | None = None
        if self.engine == "ray":
            engine = RayEngine(self.address)
        elif self.jobs != 1:
            engine = ProcessEngine(self.jobs)
        return results.finished(recipe, place, as_json=self.json, engine=engine)


@dataclass(frozen=True)
class Report:
    """Write the report of a run or audit again, or compare two: `servax report RUN_A RUN_B`."""

    run: str
    """Folder of the run or audit, or one Parquet file of records."""
    versus: str | None = operand(None)
    """Another run or audit, to compare with; the same as a second RUN."""
    _: KW_ONLY
    out: str | None = None
    """Folder of the report; default <run>/report, of an audit <run>/report-again, of a comparison
    <run>/report-versus-<other run>."""
    json: bool = False
    """Print the table as JSON."""

    def __call__(self) -> int:
        """Write the report from the records, or the comparison of two."""
        from servax.cli import results

        if self.versus is not None:
            both = Path(self.run), Path(self.versus)
            return results.compared(*both, self.out, as_json=self.json)
        return results.written_again(self.run, self.out, as_json=self.json)
