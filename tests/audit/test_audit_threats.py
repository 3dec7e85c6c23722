"""What attackers know, and what each tier lets them do."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from servax.attacks import FGSM, AutoAttack
from servax.audit.settings import AuditSettings
from servax.errors import ServaxError, SettingError
from servax.evaluation.suites import TIERS, Suite
from servax.evaluation.systems import System
from servax.evaluation.threats import KNOWLEDGE, Budget, Threat, known
from servax.kinds import Tier
from servax.perturbation import L2, Linf, SignalToNoise


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("all", KNOWLEDGE),
        ("adaptive", ("adaptive",)),
        (" adaptive , oblivious", ("oblivious", "adaptive")),
        ("black_box", ("black_box",)),
    ],
)
def test_attackers_stand_from_the_least_to_the_most_knowing(
    names: str, found: tuple[str, ...]
) -> None:
    assert known(names) == found


@pytest.mark.parametrize("names", ["oblivious", "oblivious,transfer", "transfer", ""])
def test_attackers_who_do_not_know_the_defence_are_never_alone(names: str) -> None:
    with pytest.raises(SettingError, match=r"expected adaptive beside them .* say nothing"):
        known(names)


def test_an_unknown_attacker_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"'adaptve', .* Did you mean 'adaptive'\?"):
        known("adaptve")


def test_what_the_attacker_knows_has_no_default() -> None:
    with pytest.raises(TypeError, match="knowledge"):
        Threat(name="fgsm", attack=FGSM())  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"knowledge": "white"}, "knowledge is 'white', expected one of"),
        ({"surrogate": "other"}, "surrogate is 'other', expected a name for a transfer attack"),
        ({"knowledge": "transfer"}, "surrogate is '', expected a name for a transfer attack"),
    ],
)
def test_a_threat_without_meaning_is_refused(changes: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {
        "name": "fgsm",
        "knowledge": "adaptive",
        "attack": FGSM(),
    }
    with pytest.raises(SettingError, match=sentence):
        Threat(**given | changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"radius": 0.0}, "radius is 0.0, expected a finite number above 0"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"norm": "l1"}, "norm is 'l1', expected one of l2, linf, snr"),
    ],
)
def test_a_budget_without_meaning_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        Budget(**changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tier": "quick"}, "tier is 'quick', expected one of full, smoke, standard"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"gradients": "float16"}, "gradients is 'float16', expected one of"),
        ({"snr_db": 95.0}, "snr_db is 95.0, expected a ratio in"),
        ({"snr_db": float("nan")}, "snr_db is nan"),
        ({"ratios_db": (30.0,)}, "expected some for a budget of norm snr alone"),
    ],
)
def test_settings_without_meaning_are_refused(changes: dict[str, Any], sentence: str) -> None:
    given: dict[str, Any] = {"selection": None, "tier": "smoke", "budget": Budget()}
    with pytest.raises(SettingError, match=sentence):
        AuditSettings(**given | changes)


def of(suite: Suite) -> dict[str, list[Threat]]:
    """Return the threats of each attacker."""
    threats = suite.threats(surrogates=["other"])
    return {name: [each for each in threats if each.knowledge == name] for name in KNOWLEDGE}


SMOKE = {
    "oblivious": {"fgsm", "pgd"},
    "transfer": {"pgd-other", "mi-di-other"},
    "black_box": {"noise", "square"},
    "bpda": {"pgd"},
    "adaptive": {"fgsm", "pgd", "pgd-2x", "apgd-ce", "pgd-half-draws"},
}
STANDARD = {
    "oblivious": {"fgsm", "pgd-15", "apgd-ce"},
    "transfer": {"pgd-other", "mi-di-other"},
    "black_box": {"noise", "square", "nes", "square-vote"},
    "bpda": {"pgd", "apgd-ce"},
    "adaptive": {
        *("fgsm", "pgd-15", "pgd", "pgd-2x", "apgd-ce", "apgd-targeted", "pgd-restarts"),
        *("minimum-norm", "pgd-half-draws", "pgd-fixed-draws", "pgd-mean-logits", "apgd-eot"),
    },
}
FULL = STANDARD | {
    "black_box": STANDARD["black_box"] | {"hop-skip-jump", "nes-vote"},
    "adaptive": STANDARD["adaptive"] | {"deepfool", "autoattack"},
}


SOUND_SMOKE = SMOKE | {
    "oblivious": {"pgd"},
    "adaptive": {"fgsm", "pgd", "pgd-2x", "apgd-ce", "pgd-half-draws"},
}
SOUND_STANDARD = {
    "oblivious": {"pgd"},
    "transfer": {"pgd-other", "mi-di-other"},
    "black_box": {"noise", "square", "nes", "square-vote"},
    "bpda": {"pgd"},
    "adaptive": {
        *("pgd", "apgd-ce", "apgd-targeted", "pgd-restarts", "pgd-masked", "universal"),
        *("pgd-half-draws", "pgd-fixed-draws", "pgd-mean-logits", "apgd-eot", "fgsm", "pgd-2x"),
    },
}
SOUND_FULL = SOUND_STANDARD | {"black_box": SOUND_STANDARD["black_box"] | {"nes-vote"}}


@pytest.mark.parametrize(
    ("tier", "names"),
    [("smoke", SOUND_SMOKE), ("standard", SOUND_STANDARD), ("full", SOUND_FULL)],
)
def test_each_tier_has_each_attacker_of_sound(tier: Tier, names: dict[str, set[str]]) -> None:
    selection: Any = None
    settings = AuditSettings.on_sound(
        [20, 40.0], bounds=(-1.0, 1.0), selection=selection, tier=tier
    )
    subject = System(name="m", model=nn.Identity(), inputs="waveform")
    found = of(settings.suite(subject))
    told = {knowledge: {threat.name for threat in each} for knowledge, each in found.items()}
    assert told == names
    for each in itertools.chain.from_iterable(found.values()):
        assert each.attack.in_16_bits
        assert each.attack.ball == SignalToNoise(20.0)
        once = tier == "smoke" and each.name == "square"
        once |= each.random_only or each.name == "pgd-masked"
        assert each.strengths == ((0.1,) if once else (0.01, 0.1))
        assert each.everyone == (each.knowledge in ("oblivious", "transfer"))


@pytest.mark.parametrize(
    ("tier", "names"), [("smoke", SMOKE), ("standard", STANDARD), ("full", FULL)]
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_each_tier_has_each_attacker(tier: Tier, names: dict[str, set[str]], norm: Any) -> None:
    if tier != "smoke":
        pytest.importorskip("foolbox")
    found = of(Suite(tier, Budget(norm=norm)))
    told = {knowledge: {threat.name for threat in each} for knowledge, each in found.items()}
    if (tier, norm) == ("full", "l2"):
        names = names | {"adaptive": names["adaptive"] | {"carlini-wagner"}}
    assert told == names
    for knowledge, each in found.items():
        assert len(told[knowledge]) == len(each)
        assert {threat.knowledge for threat in each} == {knowledge}
        assert all(type(threat.attack.ball) is (Linf if norm == "linf" else L2) for threat in each)


def test_full_has_autoattack_and_behind_a_random_defence_its_rand_version() -> None:
    pytest.importorskip("foolbox")
    suite = Suite("full", Budget(radius=0.5, norm="l2", bounds=(-1.0, 1.0)))
    auto = next(threat for threat in of(suite)["adaptive"] if threat.name == "autoattack")
    assert auto.if_random is not None
    found = {False: auto, True: auto.if_random}
    for random in (False, True):
        attack = found[random].attack
        assert isinstance(attack, AutoAttack)
        assert (attack.steps, attack.queries) == (100, 5000)
        assert (attack.ball, attack.bounds) == (L2(0.5), (-1.0, 1.0))
        assert attack.version == ("rand" if random else "standard")
    assert (found[False].draws, found[True].draws) == (0, 20)
    assert repr(found[False]) != repr(found[True])  # each is a stage of its own


def test_behind_a_random_defence_everybody_is_attacked_and_to_the_end() -> None:
    pytest.importorskip("foolbox")
    threats = of(Suite("standard", Budget()))["adaptive"]
    found = {each.name: each.on_random() for each in threats}
    assert all(each.everyone for each in found.values())
    assert not any(getattr(each.attack, "early_stop", False) for each in found.values())
    assert found["pgd-restarts"].attack.attack.early_stop is False
    assert next(each for each in threats if each.name == "pgd").attack.early_stop is True
    towards = Suite("standard", Budget()).threats(["adaptive"], classes=["sad"])[-1]
    assert (towards.towards, towards.on_random().everyone) == ("sad", False)


@pytest.mark.parametrize(("tier", "count"), [("smoke", 0), ("standard", 4), ("full", 4)])
def test_each_class_is_led_to(tier: Tier, count: int) -> None:
    pytest.importorskip("foolbox")
    classes = ("angry", "very happy", "very/happy", "Trauer")
    threats = [t for t in Suite(tier, Budget()).threats(["adaptive"], classes=classes) if t.towards]
    assert [threat.towards for threat in threats] == list(classes[:count])
    assert len({threat.name for threat in threats}) == count
    assert all(re.fullmatch(r"towards-[\w.-]+", threat.name) for threat in threats)
    assert all(threat.attack.targeted for threat in threats)


@pytest.mark.parametrize("radius", [0.02, 1 / 3, 0.1 * 3, 7.7e-12])
def test_no_attack_goes_beyond_the_radius_and_each_ends_at_it(radius: float) -> None:
    for each in of(Suite("smoke", Budget(radius=radius))).values():
        for threat in each:
            assert threat.strength == threat.attack.ball.radius == radius
            assert threat.sweep == () or threat.sweep[-1] == radius
            assert list(threat.sweep) == sorted(set(threat.sweep))


def test_the_papers_sizes_are_tried_at_the_papers_radius() -> None:
    fgsm = of(Suite("smoke", Budget()))["oblivious"][0]
    assert fgsm.sweep == (0.003, 0.006, 0.009, 0.012, 0.015, 0.02)


@pytest.fixture
def bare_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the optional packages of attacks be missing."""
    for name in ("foolbox", "art", "torchattacks"):
        loaded = [each for each in sys.modules if each == name or each.startswith(f"{name}.")]
        for each in (name, *loaded):
            monkeypatch.setitem(sys.modules, each, None)


@pytest.mark.usefixtures("bare_install")
def test_smoke_needs_no_optional_package() -> None:
    assert of(Suite("smoke", Budget()))


@pytest.mark.usefixtures("bare_install")
@pytest.mark.parametrize("tier", list(TIERS)[1:])
def test_a_missing_package_is_noticed_before_any_work(
    tier: Tier, set_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servax.audit.settings.gather", None)
    with pytest.raises(ServaxError, match=r"pip install '\.\[attacks\]'"):
        set_up(tmp_path / "out", tier=tier)
    assert not (tmp_path / "out").exists()


def test_fast_gradients_are_told_only_where_they_are_taken() -> None:
    given: dict[str, Any] = {"selection": None, "tier": "smoke", "budget": Budget()}
    assert "gradients" not in AuditSettings(**given).to_json()
    assert AuditSettings(**given, gradients="bfloat16").to_json()["gradients"] == "bfloat16"
