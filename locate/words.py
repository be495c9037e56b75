"""Sites and numbers in words, for readers who do not know the names in the tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from locate.metrics import ANSWERS

NAMES = {
    "resid_pre": "residual stream",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "head": "attention head",
    "neuron": "MLP neuron",
    "mlp_out_unit": "number of the MLP output",
    "pattern": "attention weights",
}
"""component: its name for one site"""

QUANTITIES = {
    "nie": "natural indirect effect (nie)",
    "nde": "natural direct effect (nde)",
    "total": "total effect (total)",
}
"""quantity: its name, with that of its column"""
COPIED = {
    "denoising": "from the clean into the corrupted run (denoising)",
    "noising": "from the corrupted into the clean run (noising)",
}
"""direction: where a value is copied"""

SUBJECT = "occupation"


def role_words(role: str, subject: str = SUBJECT) -> str:
    """Where a token stands, like "last token of the occupation"; subject is what the pairs exchange."""
    return {
        "before_subject": f"tokens before the {subject}",
        "subject_first": f"first token of the {subject}",
        "subject_middle": f"middle tokens of the {subject}",
        "subject_last": f"last token of the {subject}",
        "after_subject": f"token after the {subject}",
        "further": "tokens further on",
        "last": "last token of the prompt",
    }[role]


def site_words(
    component: str,
    layer: int,
    role: str,
    unit: int | None = None,
    *,
    key: str = "",
    window: int = 1,
    subject: str = SUBJECT,
) -> str:
    """A site in words, like "MLP output, layer 0, last token of the occupation".

    unit    number of the head or neuron; None or -1 for whole vectors
    key     role attended to, of attention weights
    window  neighbouring layers patched together
    """
    name = NAMES[component]
    where = f"layer {layer}" if window == 1 else f"{window} layers around {layer}"
    if unit is not None and unit >= 0:
        where += f", {'head' if component in ('head', 'pattern') else 'unit'} {unit}"
    towards = f" to the {role_words(key, subject)}" if key else ""
    return f"{name}, {where}, {role_words(role, subject)}{towards}"


def decimals(largest: float) -> int:
    """Decimals for numbers on a scale that ends at `largest`: 2 from 0.2 to 20, more below and fewer above."""
    if not math.isfinite(largest) or largest <= 0:
        return 2
    if largest >= 20:
        return 1 if largest < 200 else 0
    return 2 if largest >= 0.2 else 2 + math.ceil(math.log10(0.2 / largest) - 1e-9)


def signed(value: float, digits: int) -> str:
    """A number with its sign; one that rounds to 0 has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else f"{0:.{digits}f}"


def chance(p: float) -> str:
    """A p- or q-value as a reader needs it: "< 0.001", else two digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def metric_words(metric: str, answers: Sequence[str | None] | None = None) -> str:
    """What a metric measures, like "log-odds of she against he"; one of the caller's own goes by its name.

    answers  the female, male and neutral one, where all pairs have the same
    """
    known = dict(zip(ANSWERS, answers or (None, None, None), strict=True))
    first = {name: word.strip() if word else f"the {name}" for name, word in known.items()}
    last = {name: word.strip() if word else f"the {name} answer" for name, word in known.items()}
    return {
        "logit_diff": f"log-odds of {first['female']} against {last['male']}",
        "prob_diff": f"probability of {first['female']} minus that of {last['male']}",
        "prob_stereotypical": "probability of the stereotypical answer",
        "odds_ratio": "odds of the anti-stereotypical against the stereotypical answer",
        "female_neutral": f"log-odds of {first['female']} against {last['neutral']}",
        "neutral_male": f"log-odds of {first['neutral']} against {last['male']}",
    }.get(metric, metric)


def with_interval(value: float, low: float, high: float, digits: int) -> str:
    """A number with its interval, like "+1.20 [+0.90, +1.50]"."""
    return f"{signed(value, digits)} [{signed(low, digits)}, {signed(high, digits)}]"


def interval_words(value: float, low: float, high: float) -> str:
    """The same with as many decimals as the scale of the three needs."""
    return with_interval(value, low, high, decimals(max(abs(value), abs(low), abs(high))))


def unsigned_words(value: float, low: float, high: float) -> str:
    """A number that is no change with its interval, like "94.6 [86.1, 100.0]"."""
    digits = decimals(max(abs(value), abs(low), abs(high)))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def without_folders(model: str) -> str:
    """A model's name without the folders or the owner before it."""
    return Path(model).name or model
