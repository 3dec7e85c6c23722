"""A trained network with the scale and the front-end it hears through, in a folder or on the hub.

The folder is one of `servax.models.save_network`: weights (safetensors), settings (JSON), and a
model card. Nothing else is read from it, and nothing else is downloaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import ModelCard, ModelHubMixin
from torch import nn

from servax.errors import CheckpointError, ServaxError, unwritable
from servax.features import FrontEndSettings, Scaling, make_scale
from servax.kinds import check, check_kind, check_list, typed
from servax.models import Stored, load_network, save_network
from servax.models.storage import SETTINGS, WEIGHTS
from servax.pretrained import Role, no_such_folder, resolve

MODEL = "model"
"""The folder in which a training leaves its network, inside its own."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
CARD = """---
{{ card_data }}
---

{{ about }}

`settings.json` holds {{ holds }}{{ heard }}.

{{ caution }}

{{ terms }}
"""
NO_LICENCE = (
    "No licence was stated. Weights are as free as the speech they were trained on: ask whoever "
    "published them before use."
)


class Pretrained(ModelHubMixin, model_card_template=CARD, library_name="servax"):
    """What a recogniser and a purifier have in common; a class of one role adds what it does.

    Args:
        network: Takes log-Mels (B, 1, M, F) on [0, 1].
        scale: The scale it was trained on.
        front_end: The front-end settings it was trained on.
        speakers: Who was heard in its training, as the corpus names them; empty if nobody knows.
    """

    role: ClassVar[Role]
    """What its folder says that it holds."""
    writer: ClassVar[str]
    """What writes such folders, for refusals."""
    about: ClassVar[str]
    """First part of its model card."""
    caution: ClassVar[str]
    """What its model card warns of."""
    parts: ClassVar[str] = "scale and front-end"
    """What stands in its settings beside the network, for refusals."""
    holds: ClassVar[str] = "the network, the scale and the front-end it was trained on"
    """What stands in its settings, for its model card."""
    fetched: ClassVar[tuple[str, ...]] = (SETTINGS, WEIGHTS)
    """What is downloaded of it, and nothing else."""
    network: nn.Module
    scale: Scaling
    front_end: FrontEndSettings
    speakers: tuple[str, ...]

    def _hold(
        self,
        network: nn.Module,
        scale: Scaling,
        front_end: FrontEndSettings | None,
        speakers: Iterable[str],
    ) -> None:
        """Take the parts that every role has, once each is of its kind."""
        check_kind("scale", scale, nn.Module)
        self.scale = scale
        self.front_end = FrontEndSettings() if front_end is None else front_end
        check_kind("front_end", self.front_end, FrontEndSettings)
        self._keep(network, speakers)

    def _keep(self, network: nn.Module, speakers: Iterable[str]) -> None:
        # All that rebuilds it is in settings.json; the mixin would add half of it again.
        self._hub_mixin_config = None
        self.network = network
        check_list("speakers", speakers)
        self.speakers = tuple(sorted({str(speaker) for speaker in speakers}))

    @typed
    def save_pretrained(self, save_directory: str | Path, **hub: Any) -> str | None:
        """Write weights (safetensors), settings (JSON) and a model card to a folder.

        Args:
            save_directory: Made when missing.
            **hub: Passed on to huggingface_hub (push_to_hub, repo_id, model_card_kwargs ...).

        Raises:
            CheckpointError: The folder cannot be written.
            SettingError: `save_directory` is no path.
        """
        try:
            url: str | None = super().save_pretrained(save_directory, **hub)
        except OSError as error:
            raise CheckpointError(save_directory, unwritable(error)) from None
        return url

    @typed
    def generate_model_card(
        self,
        *,
        license: str | None = None,
        datasets: Iterable[str] = (),
        language: str | None = None,
    ) -> ModelCard:
        """Return the model card; `model_card_kwargs` of the saving methods gives the arguments.

        Args:
            license: As the hub writes it (``apache-2.0``, ``cc-by-nc-sa-4.0``): that of the speech
                it was trained on, since weights are no freer.
            datasets: Names of the corpora of its training.
            language: Of the speech, as a code (``en``).

        Raises:
            SettingError: One of them is of another kind.
        """
        check_list("datasets", datasets)
        names = list(datasets)
        for name in names:
            check("datasets", name, "str")
        data = deepcopy(self._hub_mixin_info.model_card_data)
        for key, value in (("license", license), ("language", language)):
            setattr(data, key, value)
        data.datasets = names or None
        count = len(self.speakers)
        card: ModelCard = ModelCard.from_template(
            card_data=data,
            template_str=CARD,
            about=self.about.strip(),
            holds=self.holds,
            heard=f", and the names of the {count} speakers that were heard" if count else "",
            caution=self.caution,
            terms=f"Licence of the weights: {license}." if license else NO_LICENCE,
        )
        return card

    @classmethod
    @typed
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> Self:
        """Return what is saved in a folder, in the package or on the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: A folder written by `save_pretrained` or ``servax
                train``, else a name of `servax.pretrained.names`, else a hub id such as
                ``user/name``.
            **hub: Passed on to huggingface_hub's `snapshot_download` (revision, token, cache_dir
                ...).

        Raises:
            CheckpointError: There is no such folder or name, the hub does not give it, its files
                are broken, or it holds something else.
        """
        return cls._read(cls._folder(pretrained_model_name_or_path, hub))

    @classmethod
    def _folder(cls, given: str | Path, hub: dict[str, Any]) -> Path:
        name = os.fspath(given)
        folder = resolve(name)
        if folder.is_dir():
            return folder
        if not HUB_ID.fullmatch(name):
            expected = f"one written by {cls.writer}, a hub id such as user/name"
            raise no_such_folder(name, expected, role=cls.role)
        return _download(name, cls.fetched, hub)

    @classmethod
    def _read(cls, folder: Path, **told: Any) -> Self:
        stored = load_network(folder)
        role = stored.extra.get("role")
        if role != cls.role:
            held = f"a {role}" if isinstance(role, str) else "a network"
            raise CheckpointError(
                folder, f"holds {held}, expected a {cls.role} written by {cls.writer}"
            )
        try:
            # Folders of before this was kept do not say whom they heard.
            speakers = [str(each) for each in stored.extra.get("speakers", ())]
            return cls._made(folder, stored, speakers, **told)
        except ServaxError as error:
            raise CheckpointError(folder / SETTINGS, str(error)) from None
        except (KeyError, TypeError):
            raise CheckpointError(
                folder / SETTINGS,
                f"holds no {cls.parts} of a {cls.role}; train it again",
            ) from None

    @classmethod
    def _made(cls, folder: Path, stored: Stored, speakers: list[str]) -> Self:
        """Return one of what a folder holds, when its network hears log-Mel."""
        del folder
        front_end = FrontEndSettings(**stored.extra["front_end"])
        scale = make_scale(stored.extra["scale"], mels=front_end.logmel.mels)
        return cls._of(stored, scale, front_end, speakers)

    @classmethod
    def _of(
        cls, stored: Stored, scale: Scaling, front_end: FrontEndSettings, speakers: list[str]
    ) -> Self:
        """Return one of the parts that a folder holds.

        Raises:
            KeyError, TypeError: Something of its role is missing.
        """
        raise NotImplementedError

    def _extra(self) -> dict[str, Any]:
        """Return what is kept beside the network; a role adds what else `_of` needs."""
        return {
            "role": self.role,
            "scale": asdict(self.scale.settings),
            "front_end": asdict(self.front_end),
            "speakers": list(self.speakers),
        }

    def _save_pretrained(self, save_directory: Path) -> None:
        save_network(self.network, save_directory, extra=self._extra())


def _download(model_id: str, files: Iterable[str], hub: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(model_id, allow_patterns=list(files), **hub))
    except (HfHubHTTPError, HFValidationError) as error:
        reason = f"the Hugging Face hub does not give it ({type(error).__name__})"
    except OSError:
        reason = "the Hugging Face hub cannot be reached"
    raise CheckpointError(model_id, f"is no folder here, and {reason}") from None
