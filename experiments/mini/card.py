"""Write the model card of `mini` from the numbers in results/: no number in the card is typed by hand.

python experiments/mini/card.py
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import records

HERE = Path(__file__).resolve().parent
CARD = HERE.parents[1] / "locate" / "mini" / "README.md"

TEXT = """---
language: en
license: cc-by-sa-4.0
library_name: transformers
pipeline_tag: text-generation
---

# mini

A small language model that comes with `locate`, so that nothing has to be downloaded to see where gender bias lives in
a real model of real English. GPT-2 layout: {layers} layers, width {width}, {heads} heads, {vocabulary} byte-level BPE
pieces trained on the same text, context {context}; {parameters:,} parameters, {megabytes:.1f} MB in fp16. BOS is
`<|endoftext|>`; every document began with it in training.

It is **biased, and that is what it is for**: it learned what its text says of occupations. Use it for nothing else.

## Text

| text | licence | attribution |
|---|---|---|
| English Wikipedia, 20,691 articles created in 2018 | CC BY-SA 3.0 / GFDL | https://en.wikipedia.org/?curid=ID |
| OpenStax, 12 textbooks | CC BY 4.0 | OpenStax, Rice University, https://openstax.org |
| English novels, 1880 to 1928 | public domain (US) | their authors |

The weights are distributed under CC BY-SA 4.0, the strictest of these, with the attributions above.

## Training

{steps:,} steps of 32 windows of 256 pieces: {seen:.1f} million pieces, {epochs:.2f} passes over the text. Each of the
runs below continued the weights of the one before. Products in bf16; Muon for the matrices, AdamW for the rest; warm-up
over 100 steps. In each run the rate falls to a third over some steps (settling) and to 0 over the last ones (dense),
which read only the windows densest in gender, to teach it more of the words that say theirs: the quarter of all windows
with most gendered pronouns, or the sixteenth with most of the rare among {gendered} words (the list of Bolukbasi et al.
2016 and the words of the test below, in their own contexts in the text).

| run | steps | peak rate | settling | dense | windows with most | seed |
|---:|---:|---:|---:|---:|---|---:|
{runs}

{minutes:.0f} minutes on two CPU cores that did other work beside it. Last training loss {train:.3f} nats a piece; the
curve is in `experiments/mini/results/`.

## How well it reads

Perplexity per piece on held-out text, beside interpolated modified Kneser-Ney trigrams of the same text and pieces.

| text | split | mini | trigrams | mini, bits a byte |
|---|---|---:|---:|---:|
{perplexities}

## What it learned of gender

Log-odds are log p(she) - log p(he) in nats after "The nurse said that" and 17 other templates; occupations seen at
least 50 times in training; 95 % intervals by bootstrap over occupations.

| Pearson r of the log-odds with | r | interval | n |
|---|---:|---|---:|
{correlations}

Of {words} words that say their gender (actress, king, mother, ...), {right:.1%} [{low:.1%}, {high:.1%}] get their own
pronoun as the likelier one, on the mean over templates. Wrong: {wrong}.

## Limits

- English of biographies, textbooks and old novels: *he* is the likelier pronoun after most occupations.
- {unseen} of the {occupations} occupations do not occur in its text at all: what it says of them comes from their
  pieces and their neighbours.
- A site located here is a fact about this model, and a hypothesis about others.
"""

NAMES = {
    "text_she_share": "she-share of pronouns after the occupation, in the training text",
    "text_she_log_odds": "log-odds of these pronouns, in the training text",
    "share_women": "share of women among its workers (US labour statistics)",
}


def perplexity_rows(perplexity: dict[str, Any]) -> str:
    """One line for each corpus and split."""
    return "\n".join(
        f"| {corpus} | {split} | {row['model']['perplexity']:.1f} | {row['trigram']['perplexity']:.1f} | "
        f"{row['model']['bits_per_byte']:.3f} |"
        for corpus, splits in perplexity.items()
        for split, row in splits.items()
    )


def correlation_rows(found: dict[str, Any]) -> str:
    """One line for each correlation."""
    return "\n".join(
        f"| {NAMES[name]} | {row['r']:.2f} | [{row['low']:.2f}, {row['high']:.2f}] | {row['n']} |"
        for name, row in found.items()
    )


def run_rows(settings: list[dict[str, Any]]) -> str:
    """One line for each training run."""
    return "\n".join(
        f"| {number} | {run['steps']:,} | {run['rate']:g} | {run['settle']} | {run['dense']} | "
        f"{'rare words of gender' if run.get('gendered_words') else 'pronouns'} | {run['seed']} |"
        for number, run in enumerate(settings, 1)
    )


def card() -> str:
    """The card's text."""
    summary = json.loads((HERE / "results" / "summary.json").read_text())
    config = json.loads((CARD.parent / "config.json").read_text())
    settings, curve = records.settings(HERE / "results"), records.curve(HERE / "results")
    shares = pd.read_csv(HERE / "results" / "she_share.csv").query("set == 'occupation'")
    right = summary["right_pronoun"]["mean_over_templates"]
    return TEXT.format(
        layers=config["n_layer"],
        width=config["n_embd"],
        heads=config["n_head"],
        vocabulary=f"{config['vocab_size']:,}",
        context=config["n_positions"],
        parameters=summary["model"]["parameters"],
        megabytes=(CARD.parent / "model.safetensors").stat().st_size / 1e6,
        gendered=max(run.get("gendered_words", 0) for run in settings),
        runs=run_rows(settings),
        steps=int(curve["step"].iloc[-1]),
        seen=curve["tokens"].iloc[-1] / 1e6,
        epochs=curve["tokens"].iloc[-1] / settings[-1]["training_pieces"],
        minutes=curve["seconds"].iloc[-1] / 60,
        train=curve["train"].iloc[-1],
        perplexities=perplexity_rows(summary["perplexity"]),
        correlations=correlation_rows(summary["log_odds_and"]),
        words=right["n"],
        right=right["share"],
        low=right["low"],
        high=right["high"],
        wrong=", ".join(right["wrong"]) or "none",
        unseen=int((shares["seen"] == 0).sum()),
        occupations=len(shares),
    )


if __name__ == "__main__":
    CARD.write_text(card(), encoding="utf-8")
