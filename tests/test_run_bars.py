"""The bars of a run: what is found done leaves the estimate, what is done fills the bar."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from servax.cli.status import RunBars, run_bars


@pytest.fixture
def bars() -> Iterator[RunBars]:
    with run_bars() as bars:
        yield bars


def whole(bars: RunBars) -> tuple[float, float | None]:
    (task,) = [t for t in bars._progress.tasks if t.description == "whole run"]
    return task.completed, task.total


def test_a_run_with_stages_done_new_and_stopped_early(bars: RunBars) -> None:
    bars.start("features", 2)
    bars.advance("1/2")
    bars.advance("2/2")
    bars.finish("features", cached=False)
    bars.plan([("target", 10.0), ("extractor", 10.0), ("ssad", 40.0)])
    assert whole(bars) == (0.0, 60.0)
    bars.finish("target", cached=True)
    assert whole(bars) == (0.0, 50.0)
    bars.start("extractor", 5)
    for _ in range(5):
        bars.advance()
    bars.finish("extractor", cached=False)
    assert whole(bars) == (pytest.approx(10.0), 50.0)
    bars.start("ssad", 4)
    bars.advance("stops early")
    bars.finish("ssad", cached=False)
    assert whole(bars) == (pytest.approx(20.0), pytest.approx(20.0))


def test_a_run_that_is_done_already(bars: RunBars) -> None:
    bars.start("features", 2)
    bars.finish("features", cached=True)
    assert bars._progress.tasks == []
    bars.plan([("target", 10.0), ("ssad", 40.0)])
    bars.finish("target", cached=True)
    bars.finish("ssad", cached=True)
    assert whole(bars) == (0.0, 0.0)


def test_stages_side_by_side_have_a_bar_each(bars: RunBars) -> None:
    bars.plan([("target", 10.0), ("extractor", 20.0)])
    bars.start("target", 2)
    bars.start("extractor", 4)
    bars.advance("uar 0.5", "target")
    bars.advance("uar 0.6", "extractor")
    shown = {t.description: (t.completed, t.fields["note"]) for t in bars._progress.tasks[1:]}
    assert shown == {"target": (1, "uar 0.5"), "extractor": (1, "uar 0.6")}
    assert whole(bars) == (pytest.approx(10.0), 30.0)
    bars.finish("target", cached=False)  # stopped early
    assert [t.description for t in bars._progress.tasks] == ["whole run", "extractor"]
    assert whole(bars) == (pytest.approx(10.0), 25.0)
