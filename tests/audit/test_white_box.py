"""Models whose gradients are cut, or seem to be: an audit that passes has attacked them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from servax.audit import Audit, Audited, run_audit
from servax.audit.checking import probe
from servax.audit.plan import plan
from servax.errors import PathError, SettingError
from servax.evaluation import checks
from servax.evaluation.checks import Finding, of_records
from servax.evaluation.loading import load_system
from servax.evaluation.threats import KNOWLEDGE, Budget

CODE = """
import numpy as np
import torch
from audited import Bands, Sound
from torch import nn


class Clamped(Bands):
    def forward(self, x):
        return super().forward(x.clamp_(0, 1))


class Rectified(Bands):
    def __init__(self):
        super().__init__()
        self.first = nn.ReLU(inplace=True)

    def forward(self, x):
        return super().forward(self.first(x))


class Shifted(Bands):
    def forward(self, x):
        x -= 0.5
        return super().forward(x + 0.5)


class Assigned(Bands):
    def forward(self, x):
        x[:] = 2 * x
        return super().forward(x / 2)


class Detached(Bands):
    def forward(self, x):
        return super().forward(x.detach())


class Data(Bands):
    def forward(self, x):
        return super().forward(x.data)


class Numpy(Bands):
    def forward(self, x):
        return super().forward(torch.from_numpy(x.numpy() + 0))


class Scaled(Bands):
    def forward(self, x):
        return super().forward(torch.from_numpy(x.detach().numpy() * np.float32(1)))


class Off(Bands):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class Inference(Bands):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Rounded(Bands):
    def forward(self, x):
        return super().forward((255 * x).round() / 255)


class Whole(Bands):
    def forward(self, x):
        return super().forward((255 * x).to(torch.uint8).float() / 255)


class Rooted(Bands):  # sqrt has no finite derivative at 0
    def forward(self, x):
        return super().forward(x) + 0 * (x - x).sqrt().mean((1, 2, 3)).unsqueeze(1)


class External(nn.Module):  # no weight of torch stands in it
    inputs, labels = "logmel", Bands.labels

    def __init__(self):
        super().__init__()
        self.behind = [Bands()]
        self.front_end, self.scale = self.behind[0].front_end, None

    def forward(self, x):
        return torch.from_numpy(self.behind[0](x.detach()).numpy())


class Decoy(Bands):
    def forward(self, x):
        return super().forward(x.detach()) + 1e-6 * x.sum((1, 2, 3)).unsqueeze(1) * self.layer.bias


class Empty(Bands):
    def forward(self, x):
        return super().forward(x.detach()) + 0 * x.sum((1, 2, 3)).unsqueeze(1)


class Half(Bands):  # one of two branches is detached
    def forward(self, x):
        return super().forward(0.7 * x.detach() + 0.3 * x.flip(2))


class Named(nn.Module):
    inputs, labels, bpda = "logmel", Bands.labels, "step.round"

    def __init__(self):
        super().__init__()
        self.net = Bands()
        self.front_end, self.scale = self.net.front_end, self.net.scale
        self.step = nn.ModuleDict({"round": Round()})

    def forward(self, x):
        return self.net(self.step["round"](x))


class Round(nn.Module):
    def forward(self, x):
        return torch.from_numpy((255 * x.numpy()).round() / np.float32(255))


class Misnamed(Named):
    bpda = "step.rounds"


class Cropping(Named):
    bpda = "net"


class ByOne(Bands):
    def forward(self, x):
        return torch.cat([super(ByOne, self).forward(one) for one in x.split(1)])


class Caching(Bands):  # as models keep what depends on the length of their input
    def forward(self, x):
        if not hasattr(self, "kept"):
            self.kept = torch.full(x.shape[1:], 1.0)
        return super().forward(x * self.kept)


class Single(Bands):
    def forward(self, x):
        if len(x) > 1:
            raise RuntimeError("one at a time")
        return super().forward(x)


class Leaving(Bands):
    def forward(self, x):
        if len(x) == 16:
            raise SystemExit(3)
        return super().forward(x)


class Broken(Bands):  # fails in a batch of 32, which no stage of a small audit fills
    def forward(self, x):
        if len(x) == 32:
            raise KeyError("batch")
        return super().forward(x)
"""


@pytest.fixture(scope="session")
def cut(own: str, models: Any) -> Iterator[str]:
    """Yield the name of a module of models around `Bands`, in each of which something is odd."""
    (models["twin"].parent / "cut_models.py").write_text(CODE, encoding="utf-8")
    yield "cut_models"
    sys.modules.pop("cut_models", None)


ASKED = ("black_box",)
BOTH = ("black_box", "adaptive")


def scene_of(set_up: Any, folder: Path, path: str, **changes: Any) -> Audit:
    """Return the audit of an audit with a radius that breaks 7 of the 8 that `Bands` gets right."""
    return set_up(folder, subject=load_system(path), **{"budget": Budget(radius=0.07)} | changes)


def told(audit: Audit) -> Finding:
    return checks.white_box(audit.systems[-1], audit.subject, audit.settings.knowledge)


def probed(audit: Audit) -> dict[str, Finding]:
    """Return what the checks of the model itself find, by name."""
    found = probe(audit, audit.systems[0], lambda: None)
    return {finding.check: finding for finding in found}


def broken(audited: Audited) -> set[str]:
    """Return the utterances that some attack breaks."""
    rows = audited.result.records.frame
    return set(rows[rows["prediction"] != rows["label"]]["utterance"])


@pytest.fixture(scope="session")
def bands(set_up: Any, own: str, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the utterances that an audit of the model itself breaks."""
    audit = scene_of(set_up, tmp_path_factory.mktemp("bands"), f"{own}:Bands", knowledge=BOTH)
    return broken(run_audit(audit))


@pytest.mark.parametrize("name", ["Clamped", "Rectified", "Shifted", "Assigned"])
def test_a_model_that_writes_into_its_input_has_its_true_worst_case(
    set_up: Any, cut: str, bands: set[str], tmp_path: Path, name: str
) -> None:
    audit = scene_of(set_up, tmp_path, f"{cut}:{name}", knowledge=BOTH)
    given = audit.dataset.x.clone()
    audited = run_audit(audit)
    assert torch.equal(audit.dataset.x, given)
    assert told(audit).severity == "passed"
    assert broken(audited) == bands
    assert len(bands) == 7


def test_a_model_that_keeps_tensors_between_passes_is_audited(
    set_up: Any, cut: str, bands: set[str], tmp_path: Path
) -> None:
    assert broken(run_audit(scene_of(set_up, tmp_path, f"{cut}:Caching", knowledge=BOTH))) == bands


def test_a_model_of_one_input_at_a_time_is_asked_so(
    set_up: Any, cut: str, bands: set[str], tmp_path: Path
) -> None:
    audit = scene_of(set_up, tmp_path, f"{cut}:Single", knowledge=BOTH, batch_size=1)
    audited = run_audit(audit)
    assert broken(audited) == bands
    found = {finding.check: finding for finding in audited.result.findings}
    assert not [f for f in found.values() if f.severity == "error"]
    assert "RuntimeError: one at a time" in found["batch-independence"].statement
    assert found["zero-gradients"].severity == "passed"


def test_a_model_that_ends_the_program_ends_a_check_alone(
    set_up: Any, cut: str, tmp_path: Path
) -> None:
    found = probed(scene_of(set_up, tmp_path, f"{cut}:Leaving", knowledge=BOTH))
    assert "SystemExit: 3" in found["batch-independence"].statement
    assert len(found) == len(checks.MODEL_CHECKS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Detached", "does not depend differentiably on its input"),
        ("Data", "does not depend differentiably on its input"),
        ("Numpy", "fails as soon as its input wants a gradient .RuntimeError: Can't call numpy"),
        ("Scaled", "does not depend differentiably on its input"),
        ("Off", "does not depend differentiably on its input"),
        ("Inference", "does not depend differentiably on its input"),
        ("Whole", "does not depend differentiably on its input"),
        ("Rounded", "its gradient is zero everywhere"),
        ("Empty", "its gradient is zero everywhere"),
        ("Rooted", "its gradient is NaN or infinite"),
    ],
)
def test_a_model_of_torch_whose_gradients_are_cut_is_an_error_with_the_reason(
    set_up: Any, cut: str, tmp_path: Path, name: str, reason: str
) -> None:
    for knowledge in (ASKED, BOTH):
        finding = told(scene_of(set_up, tmp_path, f"{cut}:{name}", knowledge=knowledge))
        assert finding.severity == "error"
        assert finding.statement.startswith(
            "Black box only: no white-box attack was possible on undefended, since "
        )
        assert re.search(reason, finding.statement)
        assert "attribute bpda" in finding.statement
    with pytest.raises(SettingError, match=f"black_box among them: {name} has no gr.*{reason}"):
        scene_of(set_up, tmp_path, f"{cut}:{name}", knowledge=("adaptive",))


def test_a_model_that_truly_has_none_is_an_error_unless_it_was_known(
    set_up: Any, cut: str, tmp_path: Path
) -> None:
    for knowledge, severity in ((ASKED, "warning"), (BOTH, "error")):
        finding = told(scene_of(set_up, tmp_path, f"{cut}:External", knowledge=knowledge))
        assert finding.severity == severity
        assert finding.statement.startswith("Black box only: no white-box attack was possible")
        advised = "ask for --knowledge black_box alone" in finding.statement
        assert advised == (severity == "error")


def test_gradients_that_nobody_asked_for_are_a_warning(
    set_up: Any, own: str, tmp_path: Path
) -> None:
    for knowledge in (ASKED, ("black_box", "bpda"), ("black_box", "transfer")):
        audit = scene_of(set_up, tmp_path, f"{own}:Bands", knowledge=knowledge)
        assert told(audit).severity == "warning"
        assert "were not asked for; add adaptive to --knowledge" in told(audit).statement


@pytest.mark.parametrize("name", ["Detached", "Numpy", "Inference", "Rooted", "External"])
def test_an_audit_of_a_cut_model_attacks_by_answers_and_does_not_pass(
    set_up: Any, cut: str, tmp_path: Path, name: str
) -> None:
    audited = run_audit(scene_of(set_up, tmp_path, f"{cut}:{name}"), fail_under=0.0)
    assert set(audited.result.records.frame["attack"]) == {"none", "noise", "square"}
    severities = {f.check: f.severity for f in audited.result.findings}
    assert severities["white-box"] == "error"
    assert severities["knowledge-complete"] == "warning"
    assert not audited.passed


def test_a_defence_that_cuts_gradients_is_attacked_by_answers_and_bpda(
    set_up: Any, own: str, cut: str, tmp_path: Path
) -> None:
    audit = scene_of(set_up, tmp_path, f"{own}:Bands", defences=(f"rounding={cut}:Round",))
    assert [system.gradients for system in audit.systems] == [True, False]
    assert told(audit).severity == "error"
    assert told(audit).statement.startswith("No exact white-box attack was possible on rounding, ")
    assert "since it fails as soon as" in told(audit).statement
    assert "the identity stood for its gradient (BPDA)" in told(audit).statement
    assert "give the defence the attribute knowledge = 'bpda'" in told(audit).statement
    titles = [each.task.stage.name for each in plan(audit)]
    assert "black box square on rounding" in titles
    assert not any(title.startswith("adaptive") and "rounding" in title for title in titles)
    rows = run_audit(audit).result.records.frame
    rows = rows[(rows["attack"] == "pgd") & (rows["prediction"] != rows["label"])]
    fallen = rows.groupby(["defence", "knowledge"])["utterance"].agg(set)
    # Rounding to 8 bits hides nothing: who falls bare falls behind it too.
    assert fallen["rounding", "bpda"] >= fallen["undefended", "adaptive"] != set()


@pytest.mark.parametrize("name", ["Decoy", "Half"])
def test_a_gradient_that_is_cut_in_part_is_found_out(
    set_up: Any, cut: str, tmp_path: Path, name: str
) -> None:
    audit = scene_of(set_up, tmp_path, f"{cut}:{name}", knowledge=BOTH)
    found = probed(audit)
    assert len(found) == len(checks.MODEL_CHECKS)
    assert found["gradient-is-true"].severity == "error"
    assert "raised" not in found["planted"].evidence


def test_the_identity_stands_for_a_step_that_a_model_names(
    set_up: Any, own: str, cut: str, bands: set[str], tmp_path: Path
) -> None:
    audit = scene_of(
        set_up, tmp_path, f"{cut}:Named", defences=("mean=mean-filter:3",), knowledge=KNOWLEDGE
    )
    assert [(s.gradients, s.exact) for s in audit.systems] == 2 * [(True, False)]
    named, plain = audit.subject.model, load_system(f"{own}:Bands").model
    x = audit.dataset.x
    assert torch.equal(named(x), plain((255 * x).round() / 255))
    audited = run_audit(audit, fail_under=0.0)
    findings = {(f.check, f.subject): f for f in audited.result.findings}
    assert findings["white-box", "undefended"].severity == "note"
    assert findings["evaluation-mode", "undefended"].severity == "passed"
    assert findings["gradient-is-true", "undefended"].severity != "error"
    rows = audited.result.records.frame
    assert "adaptive" not in set(rows["knowledge"])
    pgd = rows[(rows["attack"] == "pgd") & (rows["knowledge"] == "bpda")]
    assert set(pgd["defence"]) == {"undefended", "mean"}
    bare = rows[rows["defence"] == "undefended"]
    assert set(bare[bare["prediction"] != bare["label"]]["utterance"]) == bands


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Misnamed", "says bpda = 'step.rounds', expected the name of one of its submodules.*Did"),
        ("Cropping", "net's output has shape .1, 4., expected that of its input"),
    ],
)
def test_a_step_that_no_identity_can_stand_for_is_refused(
    cut: str, name: str, sentence: str
) -> None:
    with pytest.raises(PathError, match=sentence):
        load_system(f"{cut}:{name}")


def test_an_honest_model_that_splits_its_batch_is_audited(
    set_up: Any, own: str, cut: str, tmp_path: Path
) -> None:
    one, whole = (
        probed(scene_of(set_up, tmp_path, path)) for path in (f"{cut}:ByOne", f"{own}:Bands")
    )
    assert {n: f.severity for n, f in one.items()} == {n: f.severity for n, f in whole.items()}
    assert one["planted"].evidence == pytest.approx(whole["planted"].evidence)


def test_a_check_that_cannot_be_carried_out_is_a_finding(
    set_up: Any, cut: str, tmp_path: Path
) -> None:
    found = probed(scene_of(set_up, tmp_path, f"{cut}:Broken"))
    assert len(found) == len(checks.MODEL_CHECKS)
    assert found["batch-independence"].severity == "not-measured"
    assert found["batch-independence"].evidence == {"raised": "KeyError: 'batch'"}


def test_a_check_of_records_that_cannot_be_carried_out_is_a_finding(
    set_up: Any, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(frame: Any) -> None:
        raise ZeroDivisionError("no rows")

    monkeypatch.setattr(of_records.noise_weaker, "look", fails)
    audited = run_audit(scene_of(set_up, tmp_path, f"{own}:Bands", knowledge=BOTH))
    (finding,) = (f for f in audited.result.findings if f.check == "noise-weaker")
    assert (finding.severity, finding.subject) == ("not-measured", "all systems")
    assert "could not be carried out (ZeroDivisionError: no rows)" in finding.statement


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_check_swallows_no_end(error: type[BaseException]) -> None:
    def ends() -> Finding:
        raise error

    with pytest.raises(error):
        checks.carried_out("planted", "net", ends)
