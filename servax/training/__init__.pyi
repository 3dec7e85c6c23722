from .device import Compute as Compute, OnDevice as OnDevice
from .encoder_head import (
    AS_IT_IS as AS_IT_IS,
    ChosenHead as ChosenHead,
    HeadTraining as HeadTraining,
    choose_head as choose_head,
    mean_recall as mean_recall,
)
from .encoder_statistics import (
    EncoderStatistics as EncoderStatistics,
    NoisyCopy as NoisyCopy,
    with_noise as with_noise,
)
from .log import LOG_NAME as LOG_NAME, TrainingLog as TrainingLog, read_log as read_log
from .loop import (
    CHECKPOINT as CHECKPOINT,
    Fitted as Fitted,
    Progress as Progress,
    Schedule as Schedule,
    Terms as Terms,
    Trainable as Trainable,
    fit as fit,
    load_checkpoint as load_checkpoint,
    save_checkpoint as save_checkpoint,
)
from .processes import Processes as Processes, launch as launch
from .recogniser import (
    ClassifierTrainer as ClassifierTrainer,
    ClassifierTraining as ClassifierTraining,
    RecogniserTrainer as RecogniserTrainer,
    RecogniserTraining as RecogniserTraining,
    class_share as class_share,
    class_weights as class_weights,
    predict as predict,
)
from .seeding import (
    derive as derive,
    drawn as drawn,
    epoch_order as epoch_order,
    generator as generator,
    global_seed as global_seed,
)
from .team import Team as Team, current as current
from .trainers import (
    NetworkTrainer as NetworkTrainer,
    RestorerTrainer as RestorerTrainer,
    Shelf as Shelf,
    check_restorer as check_restorer,
)
