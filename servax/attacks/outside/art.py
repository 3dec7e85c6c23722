"""The bridge to the Adversarial Robustness Toolbox (Nicolae et al. 2018): `art.attacks.evasion`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from servax.attacks.base import Norm
from servax.attacks.outside.library import Library, Settings, Task, parameters_of
from servax.attacks.outside.shapes import square_share
from servax.errors import SettingError
from servax.perturbation import L2, Linf

STARTED = ("BoundaryAttack", "HopSkipJump")
"""Attacks that walk along the boundary from an input on its far side.

Left alone they look for one with a generator that nobody can seed.
"""
BATCH = 64
"""Least batch size: decision-based attacks ask about so many points at once, of one utterance."""


class Toolbox(Library):
    """Attacks of NumPy arrays through a PyTorchClassifier; always in float32."""

    name = "adversarial-robustness-toolbox"
    package = "art.attacks.evasion"
    extra = "pip install 'servax[attacks]'"
    own = frozenset({"classifier", "estimator", "eps", "norm", "targeted", "verbose"})

    def base(self, package: ModuleType) -> type:
        """Return ART's EvasionAttack."""
        from art.attacks.attack import EvasionAttack

        return EvasionAttack  # type: ignore[no-any-return]

    def fixed(self, attack: type) -> bool:
        """Return whether it is given a radius."""
        return "eps" in parameters_of(attack)

    def check(self, attack: type, *, norm: Norm, targeted: bool) -> None:
        """Refuse a target, or a radius in L2, of an attack that has no such setting."""
        parameters = parameters_of(attack)
        if targeted and "targeted" not in parameters:
            raise SettingError("targeted", True, f"False: {attack.__name__} knows no target")
        if norm is L2 and self.fixed(attack) and "norm" not in parameters:
            raise SettingError("norm", norm.__name__, f"Linf, of {attack.__name__}")

    def needs_starts(self, attack: type) -> bool:
        """Return whether it walks along the boundary."""
        return attack.__name__ in STARTED

    def alone(self, attack: type) -> bool:
        """Return False."""
        return False

    def run(self, attack: type, settings: Settings, task: Task) -> Tensor:
        """Return what the attack found, in float32."""
        given: dict[str, Any] = {
            "eps": task.radius,
            "norm": np.inf if task.norm is Linf else 2,
            "targeted": task.targeted,
            "verbose": False,
            "batch_size": max(BATCH, len(task.x)),
            "p_init": square_share(task.x),
        }
        parameters = parameters_of(attack)
        chosen = {name: value for name, value in given.items() if name in parameters}
        # Steps longer than the radius are refused, and those of the defaults are made for images.
        if task.radius is not None and "eps_step" in parameters:
            chosen["eps_step"] = min(0.1, task.radius)
        run: Any = attack(classifier(task), **{**chosen, **settings})
        extra = {} if task.starts is None else {"x_adv_init": array(task.starts)}
        labels = nn.functional.one_hot(task.y, task.classes)
        return torch.from_numpy(run.generate(array(task.x), y=array(labels), **extra))


def classifier(task: Task) -> Any:
    """Return the model as ART's PyTorchClassifier, on the device of the inputs."""
    from art.estimators.classification.pytorch import PyTorchClassifier

    return PyTorchClassifier(
        model=task.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(task.x.shape[1:]),
        nb_classes=task.classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if task.x.device.type == "cpu" else "gpu",
    )


def array(tensor: Tensor) -> Any:
    """Return a tensor as a float32 array of its own."""
    return tensor.detach().cpu().numpy().astype(np.float32, copy=True)
