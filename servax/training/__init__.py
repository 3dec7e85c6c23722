"""Loops without opinions: steps, early stopping, checkpoints that resume, devices."""

from servax.training.device import Compute
from servax.training.log import TrainingLog, read_log
from servax.training.loop import Fitted, Progress, Schedule, Trainable, fit
from servax.training.recogniser import RecogniserTrainer, RecogniserTraining, predict
from servax.training.seeding import derive, epoch_order, generator, global_seed

__all__ = [
    "Compute",
    "Fitted",
    "Progress",
    "RecogniserTrainer",
    "RecogniserTraining",
    "Schedule",
    "Trainable",
    "TrainingLog",
    "derive",
    "epoch_order",
    "fit",
    "generator",
    "global_seed",
    "predict",
    "read_log",
]
