"""Train `mini`, the bundled model: GPT-2 layout, six layers of width 256, on public English text.

    python experiments/mini/train.py --data DATA --work WORK [--steps 2800] [--out FOLDER]

Three stages: windows of all text at the full rate; the same while the rate falls to a third (`--settle` steps); then
only the windows densest in gendered pronouns while it falls to zero (`--dense` steps). Every run with the same
arguments sees the same batches, and a run that was cut off continues from its last checkpoint.
"""

import argparse
import csv
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from corpus import CONTEXT, FILES, VOCABULARY, pack, tokens
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

TABLES = Path(__file__).resolve().parents[2] / "locate" / "prompts" / "tables"
BATCH = 32  # windows of CONTEXT tokens
WARM_UP = 100
CHECKPOINT = 100
VALIDATE = 300
DENSE_SHARE = 1 / 3  # of the peak rate, where the dense windows begin
PRONOUNS = ("he", "she", "him", "her", "his", "himself", "herself")
VALIDATION_WINDOWS = 96


def build(seed: int) -> GPT2LMHeadModel:
    """The untrained model."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=256,
        n_layer=6,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def optimisers(model: GPT2LMHeadModel, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, biases and norms."""
    matrices = [p for n, p in model.named_parameters() if n.startswith("transformer.h.") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


def share_of_rate(step: int, steps: int, settle: int, dense: int) -> float:
    """Learning rate as a share of its peak: linear warm-up, constant, linear to DENSE_SHARE, linear to zero."""
    last = steps - dense
    if step >= last:
        return DENSE_SHARE * (steps - step) / dense
    settled = max(0.0, (step - (last - settle)) / settle)
    return min((step + 1) / WARM_UP, 1.0 - (1.0 - DENSE_SHARE) * settled)


def windows(text: np.ndarray) -> np.ndarray:
    """All whole windows of CONTEXT + 1 tokens: [window, CONTEXT + 1]."""
    count = (len(text) - 1) // CONTEXT
    starts = np.arange(count)[:, None] * CONTEXT
    return text[starts + np.arange(CONTEXT + 1)[None, :]]


def densest(data: np.ndarray, pronouns: list[int]) -> np.ndarray:
    """The quarter of all windows that holds most gendered pronouns, of either gender: [window, CONTEXT + 1]."""
    counts = np.isin(data, np.array(pronouns, dtype=data.dtype)).sum(1)
    return data[np.argsort(-counts, kind="stable")[: len(data) // 4]]


def rarest(data: np.ndarray, tokenizer: PreTrainedTokenizerFast, words: list[str]) -> np.ndarray:
    """The sixteenth of all windows that holds most of some words, each weighing the less the more often it occurs.

    [window, CONTEXT + 1]
    """
    wanted = set(words)
    found = []
    for start in range(0, len(data), 1024):
        texts = tokenizer.backend_tokenizer.decode_batch(data[start : start + 1024].tolist())
        found += [[word for word in re.findall(r"[a-z]+", text.lower()) if word in wanted] for text in texts]
    seen = Counter(word for here in found for word in here)
    scores = np.array([sum(1 / seen[word] for word in here) for here in found])
    return data[np.argsort(-scores, kind="stable")[: len(data) // 16]]


def batches(data: np.ndarray, seed: int, first: int) -> Iterator[torch.Tensor]:
    """Batches from step `first` on; each epoch is a permutation of all windows drawn from (seed, epoch)."""
    per_epoch = len(data) // BATCH
    step = first
    while True:
        epoch, start = divmod(step, per_epoch)
        order = np.random.default_rng([seed, epoch]).permutation(len(data))
        for index in range(start, per_epoch):
            rows = order[index * BATCH : (index + 1) * BATCH]
            yield torch.from_numpy(data[rows].astype(np.int64))
            step += 1


def mean_loss(model: GPT2LMHeadModel, batch: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token (nats), products in bf16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.transformer(batch[:, :-1]).last_hidden_state
        logits = model.lm_head(hidden)
    return cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())


def validation(model: GPT2LMHeadModel, work: Path) -> dict[str, float]:
    """Mean loss on the first windows of each corpus' validation text (nats a token)."""
    losses = {}
    with torch.no_grad():
        for corpus in FILES:
            rows = windows(tokens(work, corpus, "valid"))[:VALIDATION_WINDOWS]
            parts = torch.from_numpy(rows.astype(np.int64)).split(BATCH)
            losses[corpus] = float(torch.stack([mean_loss(model, part) for part in parts]).mean())
    return losses


def save_checkpoint(path: Path, step: int, model: GPT2LMHeadModel, steppers: list[torch.optim.Optimizer]) -> None:
    """Write everything a resumed run needs, whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save({"step": step, "model": model.state_dict(), "optimisers": [s.state_dict() for s in steppers]}, partial)
    partial.rename(path)


def record(path: Path, row: dict[str, object]) -> None:
    """Append one row to the curve."""
    fields = ["step", "tokens", "seconds", "train", *FILES]
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def seconds_before(path: Path, step: int) -> float:
    """Seconds of training that led to a step, from the curve of the run that is continued."""
    if not path.exists() or step == 0:
        return 0.0
    with path.open() as file:
        return max(float(row["seconds"]) for row in csv.DictReader(file) if int(row["step"]) <= step)


def train(
    work: Path,
    dense_windows: Callable[[np.ndarray], np.ndarray],
    start: Path | None,
    steps: int,
    settle: int,
    dense: int,
    rate: float,
    seed: int,
) -> GPT2LMHeadModel:
    """Run the remaining steps, writing `checkpoint.pt` and `curve.csv` to `work`; `start` gives the first weights.

    dense_windows  chooses the windows of the last `dense` steps
    """
    model = (
        build(seed).train() if start is None else GPT2LMHeadModel.from_pretrained(start, dtype=torch.float32).train()
    )
    steppers = optimisers(model, rate)
    checkpoint = work / "checkpoint.pt"
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state["step"]
        model.load_state_dict(state["model"])
        for stepper, saved in zip(steppers, state["optimisers"], strict=True):
            stepper.load_state_dict(saved)
    data = np.concatenate([windows(tokens(work, corpus, "train")) for corpus in FILES])
    last = steps - dense
    plan = chain(
        islice(batches(data, seed, first), max(0, last - first)),
        batches(dense_windows(data), seed + 1, max(0, first - last)),
    )
    print(f"{len(data) * CONTEXT:,} training tokens, {steps * BATCH * CONTEXT:,} to be seen, from step {first}")
    compiled = torch.compile(mean_loss)
    started, recent = time.time() - seconds_before(work / "curve.csv", first), []
    resumed = time.time()
    for step, batch in zip(range(first, steps), plan, strict=False):
        for stepper in steppers:
            for group in stepper.param_groups:
                group["lr"] = rate * share_of_rate(step, steps, settle, dense)
        loss = compiled(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        recent.append(float(loss.detach()))
        done = step + 1
        if done % 20 == 0 or done == steps:
            row: dict[str, object] = {
                "step": done,
                "tokens": done * BATCH * CONTEXT,
                "seconds": round(time.time() - started),
                "train": round(sum(recent) / len(recent), 4),
            }
            if done % VALIDATE == 0 or done == steps:
                row |= {corpus: round(value, 4) for corpus, value in validation(model, work).items()}
            record(work / "curve.csv", row)
            left = (time.time() - resumed) / (done - first) * (steps - done) / 60
            print(row, f"{left:.0f} min left", flush=True)
            recent = []
        if done % CHECKPOINT == 0 or done == steps:
            save_checkpoint(checkpoint, done, model, steppers)
    return model


def record_settings(work: Path, steps: int, settle: int, dense: int, rate: float, seed: int, words: int) -> None:
    """Write what the card says of the run to `work/training.json`."""
    pieces = CONTEXT * sum(len(windows(tokens(work, corpus, "train"))) for corpus in FILES)
    settings = {"training_pieces": pieces, "steps": steps, "settle": settle, "dense": dense, "rate": rate, "seed": seed}
    settings["gendered_words"] = words
    (work / "training.json").write_text(json.dumps(settings, indent=2) + "\n")


def gendered_words(file: Path) -> list[str]:
    """Words that say their gender, without pronouns: those of a JSON list, and the package's own."""
    own = pd.read_csv(TABLES / "definitional.csv")["word"]
    return sorted({*json.loads(file.read_text()), *own} - {*PRONOUNS, "hers"})


def main() -> None:
    """Train and save in fp16 with the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the three corpus folders")
    parser.add_argument("--work", type=Path, required=True, help="folder for tokens, checkpoint and curve")
    parser.add_argument("--out", type=Path, help="folder for the model (default: WORK/model)")
    parser.add_argument("--start", type=Path, help="train a model in the same pieces further; give another --seed too")
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--settle", type=int, default=600, help="steps over which the rate falls to a third")
    parser.add_argument("--dense", type=int, default=500, help="last steps, on windows dense in gendered pronouns")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--words", type=Path, help="JSON list: dense windows hold the rarest of these and of our own words"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizer = pack(options.data, options.work)
    words = gendered_words(options.words) if options.words else []
    chosen = (options.steps, options.settle, options.dense, options.rate, options.seed)
    record_settings(options.work, *chosen, len(words))
    forms = [form for word in PRONOUNS for form in (f" {word}", f" {word.title()}", word.title())]
    pieces = tokenizer(forms, add_special_tokens=False)["input_ids"]
    pronouns = [ids[0] for ids in pieces if len(ids) == 1]

    def dense_windows(data: np.ndarray) -> np.ndarray:
        return rarest(data, tokenizer, words) if words else densest(data, pronouns)

    model = train(options.work, dense_windows, options.start, *chosen)
    out = options.out or options.work / "model"
    model.eval().half().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
