"""``servax train …``, as functions whose signatures are the options; nothing here loads torch."""

from __future__ import annotations

from typing import Literal

from servax.cli.options import Groups, Scheme


def train_recogniser(
    corpus: str,
    out: str = "runs/recogniser",
    network: Literal["vgg16", "resnet", "crnn"] = "vgg16",
    root: str | None = None,
    scheme: Scheme = "four",
    groups: Groups = 6,
    held_out: int = 1,
    width: int = 64,
    epochs: int = 60,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    node_rank: int | None = None,
    main_address: str | None = None,
) -> int:
    """Train a recogniser on all speakers but one group (test) and the next (validation).

    Args:
        corpus: Name of a corpus, or the path of a CSV or Parquet manifest.
        out: Folder for weights, checkpoint and log (-o for short); a checkpoint there is resumed.
        network: vgg16 (the paper's; extractors must be one), resnet (ResNet-18) or crnn.
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: What is the label: native (the corpus' own), four (emotions), speaker or gender.
        groups: Into how many groups the speakers are divided; or speaker (each of them), text (each
            text; speakers on both sides) or official (the published split).
        held_out: Which group is held out, from 1.
        width: Channels of the first block; 64 is the published VGG-16 and ResNet.
        epochs: Most epochs.
        seed: Seeds weights and batches; an extractor needs another than its target.
        device: auto, cpu, cuda or cuda:N.
        devices: Processes on this machine, one per GPU; on a CPU, CPU processes. They share each
            batch, and the steps are those of one process up to rounding.
        nodes: Machines; the same command is started on each, with its node_rank.
        node_rank: Which machine this is, from 0; default $NODE_RANK.
        main_address: host:port where machine 0 is reached; default $MASTER_ADDR:$MASTER_PORT.
    """
    from servax.cli.training import recogniser
    from servax.training import Processes

    return recogniser(
        corpus,
        out,
        root=root,
        scheme=scheme,
        groups=groups,
        held_out=held_out,
        width=width,
        network=network,
        epochs=epochs,
        seed=seed,
        device=device,
        processes=Processes(devices, nodes, node_rank, main_address),
    )


def train_purifier(
    corpus: str,
    extractor: str,
    out: str = "runs/purifier",
    root: str | None = None,
    scheme: Scheme = "four",
    groups: Groups = 6,
    held_out: int = 1,
    preset: str = "ssad",
    epochs: int | None = None,
    ssa_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    node_rank: int | None = None,
    main_address: str | None = None,
) -> int:
    """Train a purifier with a feature extractor; the model it will protect has no part in it.

    Args:
        corpus: Name of a corpus, or the path of a CSV or Parquet manifest.
        extractor: Folder of a recogniser trained by `servax train recogniser` on the same fold.
        out: Folder for weights, checkpoint and log (-o for short); a checkpoint there is resumed.
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: What is the label: native (the corpus' own), four (emotions), speaker or gender.
        groups: Into how many groups the speakers are divided; or speaker (each of them), text (each
            text; speakers on both sides) or official (the published split).
        held_out: Which group is held out, from 1.
        preset: ssad (predicts the spectrogram), ssad-residual (predicts a change) or ssad-plus (a
            U-Net behind shuffled texture, trained with the extractor as a surrogate).
        epochs: Most epochs; default the preset's: 60 with patience 5, of ssad-plus 8.
        ssa_steps: Ascent steps of the augmentation; default 10, each of .01 on the [0, 1] scale
            (.8 dB); of ssad-plus 1 to 4, drawn anew for each batch.
        seed: Seeds weights, batches and distortions.
        device: auto, cpu, cuda or cuda:N.
        devices: Processes on this machine, one per GPU; on a CPU, CPU processes. They share each
            batch, and the steps are those of one process up to rounding.
        nodes: Machines; the same command is started on each, with its node_rank.
        node_rank: Which machine this is, from 0; default $NODE_RANK.
        main_address: host:port where machine 0 is reached; default $MASTER_ADDR:$MASTER_PORT.
    """
    from servax.cli.training import purifier
    from servax.training import Processes

    return purifier(
        corpus,
        extractor,
        out,
        root=root,
        scheme=scheme,
        groups=groups,
        held_out=held_out,
        preset=preset,
        epochs=epochs,
        ssa_steps=ssa_steps,
        seed=seed,
        device=device,
        processes=Processes(devices, nodes, node_rank, main_address),
    )


def train_denoiser(
    corpus: str,
    out: str = "runs/denoiser",
    noise: float = 0.03,
    root: str | None = None,
    scheme: Scheme = "four",
    groups: Groups = 6,
    held_out: int = 1,
    preset: str = "ssad",
    epochs: int = 60,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    node_rank: int | None = None,
    main_address: str | None = None,
) -> int:
    """Train a purifier's network on Gaussian noise alone: a baseline, and taken as a purifier.

    Args:
        corpus: Name of a corpus, or the path of a CSV or Parquet manifest.
        out: Folder for weights, checkpoint and log (-o for short); a checkpoint there is resumed.
        noise: Standard deviation of the noise, on the [0, 1] scale (.03 is 2.4 dB).
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: What is the label: native (the corpus' own), four (emotions), speaker or gender.
        groups: Into how many groups the speakers are divided; or speaker (each of them), text (each
            text; speakers on both sides) or official (the published split).
        held_out: Which group is held out, from 1.
        preset: The network: ssad (predicts the spectrogram) or ssad-residual (predicts a change).
        epochs: Most epochs; patience is 5.
        seed: Seeds weights, batches and noise.
        device: auto, cpu, cuda or cuda:N.
        devices: Processes on this machine, one per GPU; on a CPU, CPU processes. They share each
            batch, and the steps are those of one process up to rounding.
        nodes: Machines; the same command is started on each, with its node_rank.
        node_rank: Which machine this is, from 0; default $NODE_RANK.
        main_address: host:port where machine 0 is reached; default $MASTER_ADDR:$MASTER_PORT.
    """
    from servax.cli.denoising import denoiser
    from servax.training import Processes

    return denoiser(
        corpus,
        out,
        noise=noise,
        root=root,
        scheme=scheme,
        groups=groups,
        held_out=held_out,
        preset=preset,
        epochs=epochs,
        seed=seed,
        device=device,
        processes=Processes(devices, nodes, node_rank, main_address),
    )


def train_adversarial(
    corpus: str,
    out: str = "runs/adversarial",
    objective: Literal["vanilla", "similarity", "pgd-at", "trades"] = "similarity",
    epsilon: float | None = None,
    step: float | None = None,
    radius: float | None = None,
    steps: int | None = None,
    schedule: Literal["ren2020", "short"] = "ren2020",
    iterations: int | None = None,
    root: str | None = None,
    scheme: Scheme = "four",
    groups: Groups = 6,
    held_out: int = 1,
    width: int = 64,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    node_rank: int | None = None,
    main_address: str | None = None,
) -> int:
    """Train recognisers on adversarial inputs: the baseline of Ren et al. 2020, PGD-AT or TRADES.

    Args:
        corpus: Name of a corpus, or the path of a CSV or Parquet manifest.
        out: Folder for <name>/model of each model and the plain part that they share, in start
            (-o for short); checkpoints there are resumed.
        objective: vanilla and similarity (Ren et al. 2020), pgd-at (Madry et al. 2018) or trades
            (Zhang et al. 2019).
        epsilon: Size of FGSM in training for vanilla and similarity, on the [0, 1] scale (.003 is
            .24 dB); default trains one model for each of .003, .006, .009, .012, .015.
        step: Step of PGD in training for pgd-at and trades, on the [0, 1] scale; default .005.
        radius: Radius of PGD for pgd-at and trades, on the [0, 1] scale; default .015 (1.2 dB).
        steps: Steps of PGD for pgd-at and trades; default 5.
        schedule: ren2020 (10 000 iterations, 1 000 of them plain) or short (392, 280 of them plain,
            with masks, shifts, class weights and a falling learning rate; for a CPU).
        iterations: Iterations in all; the plain part keeps its share. Default is the schedule's.
        root: Folder of the corpus; default $SERVAX_DATA/<name>.
        scheme: What is the label: native (the corpus' own), four (emotions), speaker or gender.
        groups: Into how many groups the speakers are divided; or speaker (each of them), text (each
            text; speakers on both sides) or official (the published split).
        held_out: Which group is held out, from 1.
        width: Channels of the first block; 64 is the published network.
        seed: Seeds weights, batches and attacks.
        device: auto, cpu, cuda or cuda:N.
        devices: Processes on this machine, one per GPU; on a CPU, CPU processes. They share each
            batch, and the steps are those of one process up to rounding.
        nodes: Machines; the same command is started on each, with its node_rank.
        node_rank: Which machine this is, from 0; default $NODE_RANK.
        main_address: host:port where machine 0 is reached; default $MASTER_ADDR:$MASTER_PORT.
    """
    from servax.cli.adversarial import adversarial
    from servax.training import Processes

    return adversarial(
        corpus,
        out,
        objective=objective,
        epsilon=epsilon,
        step=step,
        radius=radius,
        steps=steps,
        schedule=schedule,
        iterations=iterations,
        root=root,
        scheme=scheme,
        groups=groups,
        held_out=held_out,
        width=width,
        seed=seed,
        device=device,
        processes=Processes(devices, nodes, node_rank, main_address),
    )
