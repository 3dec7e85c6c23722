"""``servax audit``: any model, the attack suite, the sanity checks, one report."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from servax.cli.commands import listed, loaded
from servax.corpora import Scheme, Selection
from servax.kinds import Precision, Tier


@dataclass(frozen=True)
class Audit(Selection):
    """Audit any model: attacks by attackers of all kinds, sanity checks, one report.

    Stages already done are not repeated. A class path runs the code it names. Lists are written
    with commas (a,b) or with spaces (a b).
    """

    model: str
    """Folder of a recogniser of servax, or a packaged one (crnn-ravdess, CC BY-NC-SA 4.0);
    package.module:Class of your own (B, 1, M, F) or (B, T) to logits (B, C); folder of a Hugging
    Face audio classifier, or hf://owner/name; a TorchScript file (.pt of torch.jit.save), whose
    code is run; an .onnx file (black box only)."""
    _: KW_ONLY
    corpus: str = "ravdess"
    """Name of a corpus, or the path of a CSV or Parquet manifest."""
    scheme: Scheme = "four"
    """Label scheme."""
    tier: Tier = "standard"
    """smoke (minutes; on sound 32 utterances without --utterances, and who only asks does so at the
    lowest --snr), standard, or full (AutoAttack's steps and queries); an estimate comes first."""
    knowledge: str = listed("all")
    """What attackers know: all, or some of oblivious, transfer, black_box, bpda and adaptive with
    commas between. Attackers who do not know the defence are never alone."""
    defences: str | None = listed(None)
    """What is audited beside the bare model, NAME=WHAT with commas between: the folder of a
    purifier (before the model) or of a recogniser (in its place), a packaged one
    (ssad-plus-ravdess, CC BY-NC-SA 4.0), or a transform such as mean-filter:3, gaussian-noise:0.02,
    quantise:4; for models of waveforms low-pass:4000, noise-wiener:20, mp3:0.5; or a class path of
    your own (my_module:MyDefence), whose code is run."""
    surrogates: str | None = listed(None)
    """Recognisers whose gradients a transfer attack takes, NAME=FOLDER with commas between: trained
    with seeds of their own, of other architectures."""
    attacks: str | None = listed(None)
    """Attacks of your own that join those of the tier, NAME=my_module:MyAttack with commas between;
    their code is run, and they know the whole system."""
    radius: float | None = None
    """Size of the attacks, in units of the input; default .02 on the log-Mel of [0, 1] (1.6 dB; 1
    for l2); on waveforms, with a norm, .002 (-54 dBFS; .1 for l2)."""
    norm: Literal["auto", "linf", "l2"] = "auto"
    """linf (per element) or l2 (per utterance). auto is linf on log-Mel; on waveforms it is the
    ratios of --snr, or linf where a radius is given."""
    snr: str | None = listed(None)
    """Least signal-to-noise ratio of attacks on sound, in dB: of a model of waveforms several with
    commas between (default 60,50,40,30,20; smoke 50,40,30), before a front-end one (30)."""
    labels: str | None = listed(None)
    """The model's classes in the order of its logits, with commas between, where it does not say
    them itself or calls them otherwise than the corpus."""
    sample_rate: int | None = None
    """In Hz, where the model does not say it."""
    inputs: Literal["logmel", "waveform"] | None = None
    """logmel or waveform, where the model does not say it."""
    seconds: float | None = None
    """Length of the sounds that a model of waveforms hears; default what it says, else 3."""
    batch_size: int = 16
    """Utterances attacked together."""
    gradients: Precision = "float32"
    """bfloat16 is the fast mode: the attacks' gradients are rough, what is predicted stays in
    float32, and records and report name it."""
    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto for CUDA where there is one: where networks compute. What is drawn
    is drawn on the CPU."""
    out: str | None = None
    """Folder of the audit; default runs/audit-<model>."""
    init: str | None = listed(None)
    """Arguments of the class of a class path, NAME=VALUE (width=16,deep=true) or a JSON object."""
    fail_under: str | None = None
    """Leave with exit code 3 when a defence (the model, where there is none) keeps less UAR than
    this, in percent, in the worst case over all attacks; lower:40 asks it of the lower end of the
    interval, lost:10 that no more points than these are lost. With it or without, the exit code is
    4 when a sanity check found an error."""
    sounds: int = 2
    """Utterances that the report plays, clean, attacked and purified; 0 for a report that holds no
    recordings, whose licence may not allow to pass them on."""
    speech: int = 8
    """Utterances of which is measured, clean and attacked, whether they are still the same speech
    (SNR, log-spectral distance; with servax[quality] PESQ, STOI, DNSMOS); 0 for none."""
    dry_run: bool = False
    """Show the stages and how long they may take; attack nothing."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> int:
        """Audit the model; `servax.cli.auditing` says what the exit codes mean."""
        code: int = loaded("auditing:audit")(self)
        return code
