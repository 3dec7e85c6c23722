"""What ``servax certify`` does: it loads what computes, which its options do not."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from servax.cli.certify import Certify
from servax.cli.commands import part
from servax.cli.output import bar, command_line, note, print_json, print_table
from servax.corpora import Selection
from servax.errors import SettingError
from servax.evaluation.certificates import certified, shares
from servax.evaluation.dataset import gather
from servax.evaluation.loading import load_system
from servax.evaluation.options import defended
from servax.evaluation.settings import Certifying
from servax.experiments.provenance import provenance
from servax.files import json_text, write_whole
from servax.kinds import COUNT
from servax.report import certified_shares, png
from servax.stages import held
from servax.training import Compute


def certify(command: Certify) -> int:
    """Certify each utterance, keep answers, shares and picture, show the shares."""
    COUNT.check("batch_size", command.batch_size)
    compute = Compute(device=command.device)
    system, settings = load_system(command.model), part(Certifying, command)
    if system.regression:
        raise SettingError("model", command.model, "a model with a head that classifies")
    system = replace(system, model=compute.placed(system.model))
    system, heard = gather(system, part(Selection, command))
    if command.between is not None:
        system = defended(system, command.between, seed=command.seed)
    folder = Path(command.out)
    with held(folder), bar("certifying") as update:
        found = certified(
            system,
            heard,
            settings,
            seed=command.seed,
            folder=folder,
            batch_size=command.batch_size,
            progress=update,
        )
    table = shares(found)
    plain = found.assign(right=found["answer"] == found["label"], unsure=found["answer"] == "")
    clean = plain.groupby("noise_db").agg(
        utterances=("right", "size"),
        right=("right", "mean"),
        unsure=("unsure", "mean"),
        lowest_snr_db=("snr_db", "min"),
    )
    told = {
        **provenance(command_line()),
        "model": {"source": str(command.model), "fingerprint": system.fingerprint},
        "corpus": command.corpus,
        "held_out": f"{command.held_out} of {command.groups}",
        "fold_hash": heard.split[:16],
        "speakers": list(heard.corpus.speakers),
        "seconds": system.seconds,
        "settings": asdict(settings),
        "without attack": clean.reset_index().to_dict("records"),
        "shares": table.to_dict("records"),
    }
    text = found.to_csv(index=False, lineterminator="\n", float_format="%.3f")
    write_whole(folder / "certificate.csv", text.encode())
    write_whole(folder / "certificate.png", png(certified_shares(table)))
    write_whole(folder / "certificate.json", f"{json_text(told, indent=1)}\n".encode())
    if command.json:
        print_json(told)
    else:
        wide = table.pivot(index="snr_db", columns="noise_db", values="firm_and_right")
        columns = ["SNR, dB", *(f"noise {noise:g} dB below" for noise in wide.columns)]
        rows = [
            [f"{ratio:g}", *(f"{100 * v:.1f}" for v in row)]
            for ratio, row in zip(wide.index, wide.to_numpy(), strict=True)
        ]
        rows.append(["no attack", *(f"{100 * v:.1f}" for v in clean["right"])])
        title = f"Right, and no change above the ratio moves it: % of {len(heard)} utterances"
        print_table(title, columns, rows)
    note(f"answers, shares and picture: {folder}")
    return 0
