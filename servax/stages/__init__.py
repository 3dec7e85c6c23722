"""Work keyed by a hash of what decides it, skipped when its result is there; here or on Ray."""

from servax.stages.engine import Engine, Order
from servax.stages.lock import Holder, ended, held, holder
from servax.stages.process_engine import ProcessEngine
from servax.stages.ray_engine import RayEngine
from servax.stages.stage import DONE, Resources, Share, Stage, Task, Watcher, make_stage
from servax.stages.storage import Storage, is_url, mirror, without_password

__all__ = [
    "DONE",
    "Engine",
    "Holder",
    "Order",
    "ProcessEngine",
    "RayEngine",
    "Resources",
    "Share",
    "Stage",
    "Storage",
    "Task",
    "Watcher",
    "ended",
    "held",
    "holder",
    "is_url",
    "make_stage",
    "mirror",
    "without_password",
]
