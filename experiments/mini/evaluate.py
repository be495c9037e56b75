"""Judge the bundled model `mini`: perplexity beside a trigram baseline, and what it learned of gender.

    python experiments/mini/evaluate.py --data DATA [--model FOLDER] [--work WORK] [--out FOLDER]

Writes to the output folder

    summary.json   perplexities, correlations, shares of right pronouns; each with n and a 95 % interval
    she_share.csv  pronouns after each word in the training text
    log_odds.csv   the model's log p(" she") - log p(" he") after each word (nats)
    run-N/         settings and loss of the Nth training run, where --run says that WORK holds it
    *.png          figures of these tables
"""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import records
import torch
import transformers
import trigram
from corpus import CONTEXT, FILES, documents, pack, tokens
from shares import she_shares
from summary import correlations, definitions, frequent
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import figures

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "locate" / "prompts" / "tables"
BATCH = 8  # windows of CONTEXT tokens
PROMPTS = 64  # prompts a batch


def packed(tokenizer: PreTrainedTokenizerBase, data: Path, work: Path) -> None:
    """Pack the corpora in the model's own pieces into `work`; what train.py left there is used again."""
    if not (work / "tokenizer").exists():
        tokenizer.save_pretrained(work / "tokenizer")
    if pack(data, work).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{work} holds the pieces of another tokenizer than the model's: name another --work")


def model_losses(model: PreTrainedModel, text: np.ndarray) -> np.ndarray:
    """Loss of every token but the first (nats), each window read on its own as in training: [token - 1]."""
    ids = torch.from_numpy(text.astype(np.int64))
    windows = [ids[start : start + CONTEXT + 1] for start in range(0, len(ids) - 1, CONTEXT)]
    whole, last = windows[:-1], windows[-1:]  # the last may be shorter
    losses = []
    for batch in [*(whole[start : start + BATCH] for start in range(0, len(whole), BATCH)), last]:
        rows = torch.stack(batch)
        logits = model(rows[:, :-1]).logits
        losses.append(cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"))
    return torch.cat(losses).numpy()


def perplexity(losses: np.ndarray, size: int) -> dict[str, float]:
    """Perplexity per piece and bits per byte of a text of `size` bytes.

    losses  nats per piece: [piece]

    The interval is the normal one of the mean over windows of CONTEXT pieces. It says how well a text of this
    length fixes the number, not how much another text of its kind would differ.
    """
    sums = np.add.reduceat(losses, np.arange(0, len(losses), CONTEXT), dtype=float)
    windows = sums / np.diff(np.arange(0, len(losses), CONTEXT), append=len(losses))
    mean, margin = losses.mean(dtype=float), 1.96 * windows.std(ddof=1) / math.sqrt(len(windows))
    return {
        "perplexity": math.exp(mean),
        "low": math.exp(mean - margin),
        "high": math.exp(mean + margin),
        "bits_per_byte": float(sums.sum()) / math.log(2) / size,
    }


def perplexities(model: PreTrainedModel, data: Path, work: Path, seed: int) -> dict[str, dict[str, object]]:
    """Perplexity of the model and of trigrams of the same training text, for each corpus and held-out split.

    The trigrams read across the windows' borders, the model does not.
    """
    orders = trigram.fit([tokens(work, corpus, "train") for corpus in FILES])
    trigram.check_sums(orders, seed)
    results: dict[str, dict[str, object]] = {}
    for corpus in FILES:
        for split in ("valid", "test"):
            text = tokens(work, corpus, split)
            size = sum(len(document.encode()) for document in documents(data, corpus, split))
            baseline = -np.log(trigram.probabilities(orders, trigram.trigram_codes(text)))
            row = {
                "pieces": len(text) - 1,
                "bytes": size,
                "model": perplexity(model_losses(model, text), size),
                "trigram": perplexity(baseline, size),
            }
            results.setdefault(corpus, {})[split] = row
            print(corpus, split, rounded(row), flush=True)
    return results


def log_odds(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """log p(" she") - log p(" he") after each prompt, END before it, in nats: [word, template]."""
    answers = tokenizer([" she", " he"], add_special_tokens=False)["input_ids"]
    if any(len(answer) != 1 for answer in answers):
        raise ValueError(f"' she' and ' he' must be single pieces, got {answers}")
    (she,), (he,) = answers
    texts = [template.format(subject=word) for word in words for template in templates]
    prompts = [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    lengths = np.array([len(prompt) for prompt in prompts])
    odds = np.empty(len(prompts))
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)  # equal lengths need no padding
        for rows in np.split(alike, range(PROMPTS, len(alike), PROMPTS)):
            logits = model(torch.tensor([prompts[row] for row in rows]), logits_to_keep=1).logits[:, -1]
            odds[rows] = (logits[:, she] - logits[:, he]).numpy()
    return odds.reshape(len(words), len(templates))


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a small table with four decimals."""
    table.to_csv(path, index=False, float_format="%.4f", lineterminator="\n")


def rounded(value: object) -> object:
    """The same structure with floats to four decimals."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(float(value), 4) if isinstance(value, float | np.floating) else value


def provenance(folder: Path, model: PreTrainedModel) -> dict[str, object]:
    """What was judged, and with what."""
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {
        "weights_sha256": weights,
        "parameters": model.num_parameters(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@torch.inference_mode()
def evaluate(folder: Path, data: Path, work: Path, out: Path, seed: int) -> None:
    """Measure everything and write it to `out`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    packed(tokenizer, data, work)
    occupations, definitional = (pd.read_csv(TABLES / f"{name}.csv") for name in ("occupations", "definitional"))
    templates = pd.read_csv(TABLES / "templates.csv")["template"].tolist()
    sets = {"occupation": occupations["occupation"], "definition": definitional["word"]}
    words = pd.concat([pd.DataFrame({"word": column, "set": name}) for name, column in sets.items()], ignore_index=True)

    shares = she_shares(words, (text for corpus in FILES for text in documents(data, corpus, "train")))
    write(shares, out / "she_share.csv")
    odds = log_odds(model, tokenizer, words["word"].tolist(), templates)
    table = words.assign(log_odds=odds.mean(1), sd=odds.std(1, ddof=1), templates=len(templates))
    write(table, out / "log_odds.csv")
    summary = {
        "model": provenance(folder, model),
        "seed": seed,
        "log_odds_and": correlations(frequent(occupations, shares, table), seed),
        "right_pronoun": definitions(definitional, odds[words["set"] == "definition"], templates),
        "perplexity": perplexities(model, data, work, seed),
    }
    text = json.dumps(rounded(summary), indent=2, allow_nan=False)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Judge the model and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the three corpus folders")
    parser.add_argument("--model", type=Path, default=ROOT / "locate" / "mini")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "mini", help="folder train.py worked in, or any")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--run", type=int, help="the training run that WORK holds, from 1 up: keep its curve")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for folder in (options.work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    evaluate(options.model, options.data, options.work, options.out, options.seed)
    if options.run is not None:
        records.keep(options.work, options.out, options.run)
    figures.draw(options.out)


if __name__ == "__main__":
    main()
