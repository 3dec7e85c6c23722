"""Loops without opinions: steps, early stopping, checkpoints that resume, devices, processes."""

from servax.training.device import Compute
from servax.training.distributed import Processes, launch
from servax.training.log import TrainingLog, read_log
from servax.training.loop import Fitted, Progress, Schedule, Trainable, fit
from servax.training.recogniser import RecogniserTrainer, RecogniserTraining, predict
from servax.training.seeding import derive, epoch_order, generator, global_seed
from servax.training.team import Team, current

__all__ = [
    "Compute",
    "Fitted",
    "Processes",
    "Progress",
    "RecogniserTrainer",
    "RecogniserTraining",
    "Schedule",
    "Team",
    "Trainable",
    "TrainingLog",
    "current",
    "derive",
    "epoch_order",
    "fit",
    "generator",
    "global_seed",
    "launch",
    "predict",
    "read_log",
]
