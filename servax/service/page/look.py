"""Colours, letters and words that stand on the page; all of it comes from this machine."""

from __future__ import annotations

from typing import Any

TITLE = "servax: an attack on speech, heard and seen"
HEAD = """# An attack on speech, heard and seen

A recogniser says how a clip sounds. An attack changes the samples, hardly audibly, until it says
something else; a purifier that has never seen the recogniser or an attack cleans the sound.
**An attacker who knows the purifier too mostly wins**, so both attackers are always shown."""
MEANING = """
- **Attack**: PGD (15 steps) or FGSM (one step) on the samples, away from what the recogniser says
  of the original. Nobody tells the page what is true, so "heard as" is not "right".
- **Strength**: the signal-to-noise ratio that the attack keeps, in dB. Lower is stronger and easier
  to hear.
- **Attacker**: who knows the purifier has exact gradients through it. The table shows both; sounds
  and pictures are those of the one you choose.
- **Attacked**: probabilities of the bare recogniser. **Purified**: those of the same recogniser for
  the purified sound.
- **Residual**: how far the purifier moves the spectrogram (mean of |x − P(x)|), which a detector
  thresholds. What is usual depends on speech and microphone, so there is no threshold here.
- **Sounds** are one channel at the rate of the recogniser, as 16-bit WAV. Clips are removed after
  some minutes; they are sent nowhere else.
- One clip says nothing about how often an attack works: `servax audit` measures that."""
CSS = """
.servax-verdict { border-left: 4px solid #8a8a8a; background: var(--background-fill-secondary);
  padding: .6em .9em; margin: 0; font-size: 1.05em; }
.servax-held { border-color: #009E73; }
.servax-lost { border-color: #D55E00; }
.servax-picture { width: 100%; height: auto; border-radius: 4px; display: block; }
.servax-attackers { width: 100%; border: 0 !important; border-collapse: collapse;
  font-size: .95em; }
.servax-attackers thead, .servax-attackers tbody, .servax-attackers tr { border: 0 !important; }
.servax-attackers th, .servax-attackers td { text-align: left; padding: .35em .7em;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.servax-attackers th { font-weight: 600; }
.servax-chosen td { background: var(--background-fill-secondary); }
"""


def theme(gradio: Any) -> Any:
    """Return colours and letters; fonts are those of the reader's machine.

    Args:
        gradio: The library.
    """
    return gradio.themes.Default(
        primary_hue=gradio.themes.colors.blue,
        neutral_hue=gradio.themes.colors.slate,
        radius_size=gradio.themes.sizes.radius_sm,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
