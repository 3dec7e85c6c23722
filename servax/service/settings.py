"""How a service works: its networks, its workers, and what a sound or a clip may cost.

``servax serve`` takes its options from these, and refusals call them as it does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from servax.errors import SettingError
from servax.kinds import Rule, Rules, check_rules
from servax.pretrained import PURIFIER, RECOGNISER
from servax.purifier.files import needs_torch
from servax.runtime.host import cpus, memory_bytes

ATTACK_SECONDS = 8.0
"""Longest sound that is attacked, which takes many times what purifying takes."""
ATTACKS_WAITING = 8
"""Sounds that wait to be attacked, one at a time; more are refused."""
LOWEST_SNR_DB, HIGHEST_SNR_DB = 10.0, 60.0
"""How strong an attack may be asked for."""
SERVER_BYTES = 200 * 2**20
WORKER_BYTES, LIGHT_WORKER_BYTES = 650 * 2**20, 350 * 2**20
"""What a worker takes at most, with torch and without, over the longest sound (docs/service.md)."""

COUNT = Rule("a whole number of at least 1", lambda n: isinstance(n, int) and n >= 1)
SECONDS = Rule("a number of seconds > 0", lambda v: 0 < v < math.inf)
WAIT = Rule("a number >= 0", lambda v: 0 <= v < math.inf)


@dataclass(frozen=True)
class ServiceSettings:
    """Everything a service is told, but where it listens and to whom.

    Raises:
        SettingError: A value is outside its rule.
    """

    model: str = RECOGNISER
    """Folder of a recogniser, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0: not for commercial
    use), or a model of sound of your own: a folder of Hugging Face, or an ONNX file (metadata
    labels and sample_rate)."""
    purifier: str = PURIFIER
    """Folder of a purifier, or a packaged one (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a Hugging
    Face hub id; trained on the log-Mel and scale of the recogniser. Or noise-wiener:20, white noise
    20 dB below the sound and a filter that knows it."""
    purify_only: bool = False
    """Load no recogniser: no /v1/classify. The purifier then runs without torch where it is an
    ONNX file, or has one beside it as the packaged one has."""
    page: bool = False
    """Also attack sounds (POST to /v1/attack), and serve the page to try that on, at /page/; of a
    recogniser of log-Mels alone."""
    workers: int | None = None
    """Processes that decode and compute, of one thread each; default one for each CPU, and no more
    than fit the memory."""
    queue: int = 64
    """Requests accepted and not yet answered; the next gets 429."""
    batch: int = 4
    """Sounds classified at once; more take as long for each, and all wait for the last."""
    batch_wait: float = 2.0
    """How long a sound to classify waits for others, in milliseconds."""
    deadline: float = 30.0
    """From the acceptance of a request to its answer, in seconds; then 504."""
    body_timeout: float = 20.0
    """For the body of a request to arrive, in seconds; then 408."""
    work_seconds: float = 20.0
    """After which a worker at one batch is taken for hung and killed."""
    shutdown_seconds: float = 30.0
    """For what was accepted, when the service ends."""
    max_bytes: int = 20 * 2**20
    """Size of a body."""
    max_seconds: float = 120.0
    """How long a sound may play; 12 million samples of all channels bound it too."""
    max_channels: int = 2
    """Channels of a sound; each is purified on its own."""
    decode_seconds: float = 5.0
    """How long decoding a sound may take."""

    RULES: ClassVar[Rules] = {
        **dict.fromkeys(("workers", "queue", "batch", "max_bytes", "max_channels"), COUNT),
        **dict.fromkeys(("deadline", "body_timeout", "work_seconds"), SECONDS),
        **dict.fromkeys(("max_seconds", "decode_seconds"), SECONDS),
        **dict.fromkeys(("batch_wait", "shutdown_seconds"), WAIT),
    }

    def __post_init__(self) -> None:
        check_rules(self)
        if self.page and self.purify_only:
            expected = "false beside --purify-only: attacks need a recogniser"
            raise SettingError("page", self.page, expected)

    @property
    def attack_seconds(self) -> float:
        """How long a sound may play that is to be attacked."""
        return min(ATTACK_SECONDS, self.max_seconds)

    @cached_property
    def light(self) -> bool:
        """Whether workers need no torch."""
        return self.purify_only and not needs_torch(self.purifier)

    @cached_property
    def worker_count(self) -> int:
        """How many workers there are: as many as were asked for, or as there are CPUs and memory.

        Raises:
            SettingError: They do not fit the memory that may be used.
        """
        memory, bodies = memory_bytes(), self.queue * self.max_bytes
        each = LIGHT_WORKER_BYTES if self.light else WORKER_BYTES
        wanted = cpus() if self.workers is None else self.workers
        if memory is None:
            return wanted
        room = (memory - SERVER_BYTES - bodies) // each
        if room < (self.workers or 1):
            mib = 2**20
            expected = (
                f"as many as fit the {memory // mib} MiB of memory that may be used: "
                f"{each // mib} MiB for each, {SERVER_BYTES // mib} MiB for the server and "
                f"{bodies // mib} MiB for {self.queue} bodies; give more memory, or lower --queue "
                "or --max-bytes"
            )
            raise SettingError("workers", self.workers or 1, expected)
        return min(wanted, room) if self.workers is None else wanted
