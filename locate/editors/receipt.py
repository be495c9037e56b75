"""The proof of an edit: what changed, and that nothing else did; measured again after a reload from disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from locate.editors.edit import Edit
from locate.editors.handoff import check_unstamped
from locate.editors.pace import SCORED, Part, tokens_in
from locate.editors.progress import Progress, no_progress
from locate.editors.receipt_words import Receipt
from locate.editors.stamp import fold, unfoldable
from locate.editors.stored import compare_files
from locate.errors import LocateError
from locate.evaluation import elsewhere, occupations, perplexity
from locate.evaluation.kept import kept_path, measure_once
from locate.evaluation.run import network_hash
from locate.evaluation.scores import Items, Score, Test
from locate.files import strict, write_json
from locate.model.causal import CausalModel, load_causal
from locate.model.checkpoint import EDIT, UNSTAMPED, tokenizer_files_of
from locate.model.quiet import quiet_transformers
from locate.model.stamp import STAMP, stamp_tensors
from locate.schema import RECEIPT_VERSION, library_version, locate_version, validate

RECEIPT = "receipt.json"
PROBES = ("The nurse said that", "The king was angry because", "It was late when", "Water boils at")
SAME = 1e-4  # nats that the reloaded model may differ from the edited one in memory, fp32
NOTHING = 1e-4  # nats: a mean change of log-odds below this is no effect
JUDGES = (occupations.TEST, elsewhere.UNSEEN_FORMS, elsewhere.NATURAL_SENTENCES, perplexity.TEST)
TEXTS: dict[str, Callable[[Any], str]] = {
    occupations.NAME: attrgetter("prompt"),
    elsewhere.FORMS: itemgetter(-1),
    elsewhere.NATURAL: itemgetter(-1),
    perplexity.TEST.name: attrgetter("text"),
}
"""test: what the model reads of one of its items"""
PROOF = 5000  # tokens that could be read while a small model is written, loaded again and compared
PLAIN, OWN = "transformers.AutoModelForCausalLM.from_pretrained", "locate.model.causal.load_stamped"
LIBRARIES = ("torch", "transformers", "safetensors")


def save_edited(
    edit: Edit,
    model: CausalModel,
    folder: str | Path,
    *,
    text: str | Path | None = None,
    progress: Progress = no_progress,
) -> Receipt:
    """Write the edited model as an ordinary checkpoint with its receipt; returns the receipt.

    Where no wider MLP computes an edit's stamp, the folder is no checkpoint: it holds the model without the stamp one
    folder below, where `from_pretrained` does not find it, and is loaded by `load_stamped`. The receipt says which.

    edit    of this model
    folder  new or empty; it holds config, weights, tokenizer, edit.safetensors and receipt.json, or is not there at all
    text    what perplexity is measured on; None for the package's sample

    The model itself stays as it is. Before the folder appears, what was written is loaded again, compared with the
    edited model in memory and tensor by tensor with the original, and measured.

    Raises LocateError when the folder is not empty, the disk refuses, the edit has no effect, another tensor than it
    names changed, the reloaded model is not the edited one, or the model itself has a stamp already.
    """
    target = Path(folder)
    check_free(target)
    check_unstamped(model)
    reason = unfoldable(model.network, edit.stamps)
    started = time.perf_counter()
    prose = None if text is None else Path(text)
    before = measure_tests(model, prose, "before", progress, once=True)
    progress("proof", 0, 3)
    with staging(target) as place:
        with edit.applied(model):
            said = probe(model)
            if reason is None:
                write_checkpoint(network_of(edit, model), model, place)
            else:
                write_checkpoint(model.network, model, place / UNSTAMPED)
        edit.save(place / EDIT)
        progress("proof", 1, 3)
        reading: dict[str, Any] = {"bos": model.encoder.bos, "chat": model.encoder.chat, "threads": model.threads}
        again = load_causal(str(place), device=model.device, dtype=model.dtype, **reading)
        progress("proof", 2, 3)
        tensors = compare_tensors(edit, model, again)
        tensors["files"] = compare_files(model, again.checkpoint.folder, tensors["allowed"])
        apart = difference_after_reload(again, said)
        progress("proof", 3, 3)
        after = measure_tests(again, prose, "after", progress)
        receipt = {
            "schema": RECEIPT_VERSION,
            "locate": locate_version(),
            "method": edit.method,
            "model": edit.model,
            "load": {"with": PLAIN} if reason is None else {"with": OWN, "reason": reason},
            "edited_weights_sha256": again.checkpoint.weights_sha256,
            "located": edit.located,
            "settings": edit.settings,
            "edited": edit.edited,
            "report": edit.report,
            "tensors": tensors,
            "reload": {"largest_difference": apart, "unit": "nats", "prompts": list(PROBES)},
            "scores": judge_edit(edit, before, after),
            "libraries": {name: library_version(name) for name in LIBRARIES},
            "threads": model.threads,
            "seconds": round(time.perf_counter() - started, 1),
        }
        told: dict[str, Any] = strict(receipt)  # type: ignore[assignment]
        validate(told, "receipt", place / RECEIPT)
        write_json(place / RECEIPT, told)
    return Receipt(told)


def check_free(target: Path) -> None:
    """Raise LocateError unless a folder is new or empty, and can be written."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LocateError(f"{target} exists already: choose another folder for the edited model, or remove it")
    above = next(each for each in target.absolute().parents if each.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise LocateError(f"{target} cannot be made: nothing may be written into {above}; choose another folder")


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes it when all goes well, and is removed when not."""
    place = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        yield place
        if target.is_dir():
            target.rmdir()
        place.rename(target)
    except OSError as error:
        raise LocateError(
            f"the edited model cannot be written to {target} ({error}): free some space or choose another folder; the "
            "original is unchanged"
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def network_of(edit: Edit, model: CausalModel) -> Any:
    """The network to be saved: the edited one, with stamps folded into wider MLPs."""
    return fold(model.network, edit.stamps) if edit.stamps else model.network


def write_checkpoint(network: Any, model: CausalModel, place: Path) -> None:
    """Weights and configuration as Hugging Face saves them; the tokenizer's files as they are."""
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            network.save_pretrained(place)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    for path in tokenizer_files_of(model.name, model.checkpoint.files.tokenizer):
        shutil.copyfile(path, place / path.name)


def probe(model: CausalModel) -> torch.Tensor:
    """log-probabilities of the whole vocabulary after a few prompts: [prompt, piece]."""
    from locate.model.likelihood import row_logits

    rows = [model.encoder.encode(text)[0] for text in PROBES]
    logits = row_logits(model, rows)
    last = torch.tensor([len(row) - 1 for row in rows], device=logits.device)
    return logits[torch.arange(len(rows), device=logits.device), last].log_softmax(-1).cpu()


def difference_after_reload(again: CausalModel, said: torch.Tensor) -> float:
    """Largest difference (nats) of the reloaded model's log-probabilities from those of the edited one in memory.

    Raises LocateError where it is beyond rounding.
    """
    apart = float((probe(again) - said).abs().max())
    if apart > SAME:
        raise LocateError(
            f"the reloaded model differs from the edited one by {apart:.2g} nats, expected at most {SAME:g}: "
            "nothing was kept; edit in a dtype that the checkpoint keeps (float32)"
        )
    return apart


def digest(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's bytes, with its dtype and shape."""
    flat = tensor.detach().cpu().contiguous()
    told = f"{flat.dtype} {tuple(flat.shape)}".encode()
    return hashlib.sha256(told + flat.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def compare_tensors(edit: Edit, model: CausalModel, again: CausalModel) -> dict[str, Any]:
    """Every tensor of the reloaded model against the original: which changed, by how much, and that no other did.

    An MLP that was widened for a stamp counts as unchanged where its own part is bit for bit the same. The matrices of
    stamps beside MLPs are added.

    Raises LocateError when nothing changed, or a tensor that the edit does not name, or a stamp is not the edit's.
    """
    original, edited, added = model.network.state_dict(), again.network.state_dict(), stamp_tensors(again.network)
    edited = {name: tensor for name, tensor in edited.items() if name not in added}
    if set(original) != set(edited):
        raise LocateError(f"tensors missing or new in the saved model: {sorted(set(original) ^ set(edited))[:3]}")
    allowed = allowed_tensors(edit, original)
    changed, same = [], hashlib.sha256()
    for name, was in original.items():
        now = own_part(edited[name], was)
        if digest(was) == digest(now):
            same.update(f"{name} {digest(was)}".encode())
            if now.shape == edited[name].shape:
                continue
        elif name not in allowed:
            raise LocateError(f"tensor {name} changed, which the edit does not name: nothing was kept")
        changed.append(about_change(name, was, edited[name]))
    beside = stamps_beside(edit, added)
    moving = [*changed, *(row for row in beside if row["name"].endswith(".values"))]
    if not any(row["norm"] > 0 for row in moving):
        raise LocateError("the edit changed no tensor: nothing was kept; give it more prompts or other layers")
    lacking = sorted(name for name in edit.changes if name not in {row["name"] for row in changed})
    return {
        "changed": changed,
        "added": beside,
        "allowed": sorted(allowed),
        "unchanged": len(original) - sum(row["own_part_changed"] for row in changed),
        "unchanged_sha256": same.hexdigest(),
        "named_but_unchanged": lacking,
    }


def stamps_beside(edit: Edit, added: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
    """The matrices of the stamps beside MLPs: names, shapes, hashes and norms.

    Raises LocateError when they are not those of the edit.
    """
    if not added:
        return []
    wanted = {
        f"{each.module}.{STAMP}.{name}": tensor for each in edit.stamps for name, tensor in each.tensors().items()
    }
    other = [name for name in wanted.keys() | added.keys() if not same_bits(wanted.get(name), added.get(name))]
    if other:
        raise LocateError(f"{min(other)} is not the stamp of the edit: nothing was kept; try again")
    return [
        {"name": name, "shape": list(tensor.shape), "sha256": digest(tensor), "norm": float(tensor.double().norm())}
        for name, tensor in added.items()
    ]


def same_bits(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether both tensors are there and the same."""
    return one is not None and other is not None and digest(one) == digest(other)


def own_part(now: torch.Tensor, was: torch.Tensor) -> torch.Tensor:
    """The part of a widened tensor that was there before."""
    return now[tuple(slice(0, size) for size in was.shape)]


def about_change(name: str, was: torch.Tensor, now: torch.Tensor) -> dict[str, Any]:
    """One changed or widened tensor: hashes, shapes, norm of the change (of what was added too) and its share."""
    own = own_part(now, was)
    difference = own.double() - was.double()
    added = now.double().norm() ** 2 - own.double().norm() ** 2
    norm = float((difference.norm() ** 2 + added.clamp_min(0)).sqrt())
    return {
        "name": name,
        "shape": list(now.shape),
        "before_sha256": digest(was),
        "after_sha256": digest(now),
        "own_part_changed": digest(was) != digest(own),
        "norm": norm,
        "share": norm / max(float(was.double().norm()), 1e-30),
        "largest": float(max(difference.abs().max(), (now.double().abs().max() if added > 0 else 0.0))),
    }


def allowed_tensors(edit: Edit, original: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the tensors that an edit may change, including tied weights, which share their memory."""
    places = {original[name].data_ptr() for name in edit.changes if name in original}
    return {name for name, tensor in original.items() if tensor.data_ptr() in places}


TestTables = dict[str, pd.DataFrame]


def measure_tests(
    model: CausalModel, text: Path | None, when: str, progress: Progress, *, once: bool = False
) -> TestTables:
    """The measurements that a receipt judges by: occupations and definitional words, and perplexity.

    once  whether those of the same model are kept and taken from the user's cache
    """
    found = {}
    network = network_hash(model) if once else None
    for test in JUDGES:
        items, step = read_items(test, text), partial(progress, f"{when}: {test.name}")
        found[test.name] = (
            measure_once(model, test, items, step, network=network) if once else test.measure(model, items, step)
        )
    return found


def read_items(test: Test, text: Path | None) -> Items:
    """The items of one of the measurements; only perplexity has another text than the package's."""
    return test.read(text if test.name == perplexity.TEST.name else None)


def receipt_parts(model: CausalModel, text: str | Path | None = None) -> list[Part]:
    """The parts of `save_edited`, and about what each costs; measurements of the original that are kept are left out.

    The edited model is measured at the pace of the original.

    Raises LocateError where the text cannot be read.
    """
    network, before, after = network_hash(model), [], []
    for test in JUDGES:
        items = read_items(test, None if text is None else Path(text))
        cost = tokens_in(model, [TEXTS[test.name](item) for item in items.rows])
        cost *= SCORED if test.name == perplexity.TEST.name else 1
        if not kept_path(model, test, items, network).is_file():
            before.append(Part(f"before: {test.name}", cost))
        after.append(Part(f"after: {test.name}", cost, like=f"before: {test.name}"))
    return [*before, Part("proof", PROOF), *after]


def judge_edit(edit: Edit, before: TestTables, after: TestTables) -> dict[str, Any]:
    """Scores before and after, and what became of bias and knowledge: cut, kept definitions, change of perplexity.

    Raises LocateError when the log-odds of the edited words hardly moved: an edit without effect.
    """
    name = occupations.NAME
    was, now = before[name], after[name]
    moved = float(((now["she"] - now["he"]) - (was["she"] - was["he"])).abs().mean())
    if moved < NOTHING:
        raise LocateError(
            f"the edit has no effect: log-odds moved by {moved:.2g} nats on average: nothing was kept; choose other "
            "layers or weaker preservation"
        )
    words, forms = edit.edited.get("words", []), edit.edited.get("templates", [])
    jobs = was[was["kind"] == occupations.OCCUPATION]
    unseen = [word for word in jobs["word"].unique() if word not in set(words)]
    other = [form for form in jobs["template"].unique() if form not in set(forms)]
    changes: dict[str, tuple[list[str] | None, list[str] | None]] = {"all": (None, None), "edited": (words, None)}
    changes |= {"held_out": (unseen, None), "held_out_both": (unseen, other)}
    seen = {"words": words, "templates": forms}
    return {
        "moved": moved,
        "cut": {
            part: score_as_json(occupations.log_odds_cut(was, now, *names))
            for part, names in changes.items()
            if is_about(jobs, *names)
        }
        | cut_elsewhere(before, after, unseen),
        "kept": [score_as_json(each) for each in occupations.kept_definitions(was, now)],
        "perplexity_change": score_as_json(perplexity.perplexity_change(before["perplexity"], after["perplexity"])),
        "before": [
            score_as_json(each) for each in (*occupations.score(was, seen), *perplexity.score(before["perplexity"]))
        ],
        "after": [
            score_as_json(each) for each in (*occupations.score(now, seen), *perplexity.score(after["perplexity"]))
        ],
    }


def cut_elsewhere(before: TestTables, after: TestTables, unseen: Sequence[str]) -> dict[str, Any]:
    """The cut of occupations that were not edited in unseen forms, and of all in natural sentences."""
    found = {}
    for test, words in ((elsewhere.FORMS, unseen), (elsewhere.NATURAL, None)):
        if test in before and (words is None or before[test]["word"].isin(words).any()):
            found[test] = score_as_json(occupations.log_odds_cut(before[test], after[test], words, test=test))
    return found


def is_about(jobs: pd.DataFrame, words: list[str] | None, templates: list[str] | None) -> bool:
    """Whether any prompt is about one of the words, in one of the templates; None is all of them."""
    parts = {"word": words, "template": templates}
    chosen = [jobs[name].isin(part) for name, part in parts.items() if part is not None]
    return not chosen or bool(pd.concat(chosen, axis=1).all(axis=1).any())


def score_as_json(score: Score) -> dict[str, Any]:
    """A score as the receipt holds it."""
    return asdict(score)
