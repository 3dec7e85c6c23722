"""Loops without opinions: steps, early stopping, checkpoints that resume, devices, processes."""

from servax.training.device import Compute
from servax.training.encoder_head import AS_IT_IS, ChosenHead, HeadTraining, choose_head
from servax.training.encoder_statistics import EncoderStatistics, NoisyCopy, with_noise
from servax.training.log import LOG_NAME, TrainingLog, read_log
from servax.training.loop import (
    CHECKPOINT,
    Fitted,
    Progress,
    Schedule,
    Terms,
    Trainable,
    fit,
    load_checkpoint,
    save_checkpoint,
)
from servax.training.processes import Processes, launch
from servax.training.recogniser import (
    ClassifierTrainer,
    ClassifierTraining,
    RecogniserTrainer,
    RecogniserTraining,
    class_share,
    class_weights,
    predict,
)
from servax.training.seeding import derive, drawn, epoch_order, generator, global_seed
from servax.training.team import Team, current
from servax.training.trainers import NetworkTrainer, RestorerTrainer, Shelf, check_restorer

__all__ = [
    "AS_IT_IS",
    "CHECKPOINT",
    "LOG_NAME",
    "ChosenHead",
    "ClassifierTrainer",
    "ClassifierTraining",
    "Compute",
    "EncoderStatistics",
    "Fitted",
    "HeadTraining",
    "NetworkTrainer",
    "NoisyCopy",
    "Processes",
    "Progress",
    "RecogniserTrainer",
    "RecogniserTraining",
    "RestorerTrainer",
    "Schedule",
    "Shelf",
    "Team",
    "Terms",
    "Trainable",
    "TrainingLog",
    "check_restorer",
    "choose_head",
    "class_share",
    "class_weights",
    "current",
    "derive",
    "drawn",
    "epoch_order",
    "fit",
    "generator",
    "global_seed",
    "launch",
    "load_checkpoint",
    "predict",
    "read_log",
    "save_checkpoint",
    "with_noise",
]
