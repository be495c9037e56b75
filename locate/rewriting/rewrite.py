"""Rewrites a file row by row into JSON Lines that a stop does not lose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import hash_of, strict, write_json, write_text
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step
from locate.model.writing import write_answers
from locate.rewriting.originals import Original, numbered_originals
from locate.rewriting.request import Request
from locate.training.rows import found_file

BATCH = 16
TWICE, MORE = 2, 16  # a rewrite may have twice the tokens of its text, and some more
EMPTY, REFUSED, COPIED, CUT, UNREAD = "empty", "refused", "copied", "cut", "unread"
OUTCOMES = ("", EMPTY, REFUSED, COPIED, CUT, UNREAD)
FIRST = 160  # characters of a rewrite in which a refusal is looked for
REFUSAL = re.compile(
    r"\bas an? (\w+ )?(ai|artificial intelligence|(ai |language )?model)\b|\bas an ai assistant\b"
    r"|\b(i'?m|i am|we are|we're) (sorry|afraid)\b.{0,60}\b(can ?not|can'?t|unable|not able|won'?t|but)\b"
    r"|^\W*(sorry|unfortunately)\b.{0,20}\b(i|we)\b.{0,20}"
    r"\b(can ?not|can'?t|unable|not able|won'?t|must|do not|don'?t)\b"
    r"|\b(i|we)('m| am| are|'re)? (can ?not|can'?t|won'?t|will not|unable to|not able to|must decline to) "
    r"(help|assist|comply|fulfil|fulfill|rewrite|rephrase|provide|generate|create|answer|engage|continue|support|"
    r"do (that|this|so|it))\b"
    r"|\bi('m| am) not comfortable\b|\bi must decline\b|\bi apologi[sz]e\b",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Rewritten:
    """A text and what a model made of it.

    outcome      "" for a rewrite; "empty", "refused", "copied" (the text again) or "cut" (it did not end); "unread"
                 for a row that could not be read, whose reason stands in `reason`
    references, group, demographic  those of the original
    """

    line: int
    text: str
    rewrite: str
    outcome: str
    reason: str = ""
    references: tuple[str, ...] = ()
    group: str = ""
    demographic: str = ""


def rewrite_rows(
    model: CausalModel,
    rows: Sequence[tuple[int, Original | str]],
    request: Request,
    *,
    batch: int = BATCH,
    step: Step = ignore_step,
) -> Iterator[list[Rewritten]]:
    """What the model makes of each row, batch after batch, in the order of the rows.

    rows  (line, original), or (line, why it has none), which comes back as "unread"

    The likeliest token is taken each time: the same rows in the same batches give the same rewrites.
    """
    ends = request.end_ids(model)
    for first in range(0, len(rows), batch):
        own = [(line, row, prompt_of(model, request, row)) for line, row in rows[first : first + batch]]
        asked = [(row, ids) for _, row, ids in own if isinstance(row, Original) and isinstance(ids, list)]
        most = [allowed(model, row) for row, _ in asked]
        answers = iter(write_answers(model, [ids for _, ids in asked], tokens=most, ends=ends) if asked else [])
        made = []
        for line, row, ids in own:
            if isinstance(row, str) or isinstance(ids, str):
                made.append(unread(line, row, str(ids)))
            else:
                made.append(rewritten(model, request, line, row, next(answers)))
        step(min(first + batch, len(rows)), len(rows))
        yield made


def unread(line: int, row: Original | str, reason: str) -> Rewritten:
    """A row that the model was not asked about."""
    if isinstance(row, str):
        return Rewritten(line, "", "", UNREAD, reason)
    return Rewritten(line, row.text, "", UNREAD, reason, row.references, row.group, row.demographic)


def prompt_of(model: CausalModel, request: Request, row: Original | str) -> list[int] | str:
    """Token ids of the request for a row, or why it cannot be made."""
    if isinstance(row, str):
        return row
    try:
        ids = request.prompt_ids(model, row.text)
    except LocateError as error:
        return str(error)
    if len(ids) + allowed(model, row) > model.context:
        return f"request and rewrite are longer than the {model.context:,} tokens that the model takes"
    return ids


def allowed(model: CausalModel, row: Original) -> int:
    """Tokens that a rewrite may have."""
    ids = model.encoder.tokenizer(row.text, add_special_tokens=False)["input_ids"]
    return TWICE * len(ids) + MORE


def rewritten(model: CausalModel, request: Request, line: int, row: Original, ids: list[int]) -> Rewritten:
    """A row with its rewrite."""
    text, went_on = request.answer_text(model, ids)
    outcome = outcome_of(row.text, text)
    if not outcome and not went_on and len(ids) >= allowed(model, row):
        outcome = CUT
    return Rewritten(line, row.text, text, outcome, "", row.references, row.group, row.demographic)


def outcome_of(text: str, rewrite: str) -> str:
    """Whether a rewrite is empty, a refusal, or the text again; "" for none of these."""
    if not re.search(r"\w", rewrite):
        return EMPTY
    if same_words(text, rewrite):
        return COPIED
    refused = REFUSAL.search(rewrite[:FIRST]) is not None and REFUSAL.search(text) is None
    return REFUSED if refused else ""


def same_words(one: str, other: str) -> bool:
    """Whether two texts have the same words, whatever their case, punctuation and white space."""
    first, second = (re.findall(r"\w+", text.casefold()) for text in (one, other))
    return first == second


def rewrite_file(
    model: CausalModel,
    source: str | Path,
    output: str | Path,
    request: Request,
    *,
    lines: Sequence[int] | None = None,
    batch: int = BATCH,
    about: dict[str, Any] | None = None,
    step: Step = ignore_step,
) -> list[Rewritten]:
    """Rewrite every row of a file into JSON Lines, batch after batch; go on where an earlier start stopped.

    source  as in `read_originals`; rewrites of people are optional
    output  a name that ends in .jsonl; beside it a .meta.json says what made it
    lines   only these rows of the file; None takes all
    about   what else the rewrites depend on

    Every row of the file comes back, those that cannot be read with the reason.

    Raises LocateError where the output was made by another model, request, file or batch, with both values.
    """
    output = Path(output)
    if output.suffix != ".jsonl":
        raise LocateError(f"--output {output}: expected a name that ends in .jsonl")
    if batch < 1:
        raise LocateError(f"batch {batch}: expected at least one row")
    with found_file(source) as (path, hashes):
        rows = numbered_originals(path, strict=False)
    if lines is not None:
        wanted = set(lines)
        rows = [(line, row) for line, row in rows if line in wanted]
    if not rows:
        raise LocateError(f"{source} holds no row to rewrite: expected at least one")
    meta = {
        "source": hashes,
        "model": model.provenance(),
        "request": asdict(request),
        "batch": batch,
        "rows": len(rows),
        "lines": hash_of([line for line, _ in rows]),
    } | (about or {})
    done = kept_rows(output, strict(meta))
    check_order(output, done, rows)
    done = done[: len(done) - len(done) % batch] if len(done) < len(rows) else done
    write_json(meta_path(output), meta)
    write_text(output, "".join(f"{line_of(row)}\n" for row in done))
    step(len(done), len(rows))
    report: Step = lambda now, of: step(len(done) + now, len(rows))  # noqa: E731
    found = list(done)
    for some in rewrite_rows(model, rows[len(done) :], request, batch=batch, step=report):
        append_lines(output, [line_of(row) for row in some])
        found += some
    return found


def meta_path(output: Path) -> Path:
    """Where it is kept what made a file of rewrites."""
    return output.with_suffix(".meta.json")


def kept_rows(output: Path, meta: object) -> list[Rewritten]:
    """The rows that an earlier start has written; a last line that a stop tore is not among them.

    Raises LocateError where something else made them.
    """
    from locate.files import read_json

    if not output.exists() or not output.read_bytes().strip():
        return []
    if not meta_path(output).is_file():
        raise LocateError(f"{output} exists, without {meta_path(output).name} that says what made it: choose another")
    before = read_json(meta_path(output))
    if not isinstance(before, dict):
        raise LocateError(f"{meta_path(output)} does not say what made {output.name}: remove both, or choose another")
    now = json.loads(json.dumps(meta))
    for name in [*now, *(each for each in before if each not in now)]:
        if before.get(name) != now.get(name):
            raise LocateError(
                f"{output} was made with another {name}: {shortly(before.get(name))}, now "
                f"{shortly(now.get(name))}: choose another --output, or remove it"
            )
    return read_rewritten(output, torn=True)


def check_order(output: Path, done: Sequence[Rewritten], rows: Sequence[tuple[int, Original | str]]) -> None:
    """Raise LocateError unless the rows of a file are the first of those that are wanted."""
    for place, row in enumerate(done):
        wanted = rows[place][0] if place < len(rows) else None
        if row.line != wanted:
            raise LocateError(
                f"{output}, line {place + 1} is the rewrite of line {row.line}, expected that of "
                f"{'no line' if wanted is None else wanted}: undo what was changed in it, or remove it"
            )


def shortly(value: object) -> str:
    """A value in a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}..."


def read_rewritten(path: Path, *, torn: bool = False) -> list[Rewritten]:
    """The rows of a file of rewrites.

    torn  whether the last line may be half a row, which is then left out

    Raises LocateError, naming the line, for any other row that is none.
    """
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(rewritten_of(json.loads(line.decode("utf-8"))))
        except (ValueError, TypeError, KeyError, UnicodeDecodeError):
            if torn and number == len(lines):
                break
            raise LocateError(
                f"{path}, line {number}: expected a row that `rewrite run` has written, with line, text, rewrite and "
                "outcome"
            ) from None
    return found


def rewritten_of(cells: dict[str, Any]) -> Rewritten:
    """A row from JSON."""
    if cells["outcome"] not in OUTCOMES or not isinstance(cells["rewrite"], str) or not isinstance(cells["text"], str):
        raise ValueError("no rewrite with its text and outcome")
    names = ("line", "text", "rewrite", "outcome", "reason", "group", "demographic")
    return Rewritten(
        **{name: cells[name] for name in names if name in cells}, references=tuple(cells.get("references", ()))
    )


def line_of(row: Rewritten) -> str:
    """A row as JSON."""
    return json.dumps(asdict(row), ensure_ascii=False)


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines to a file at once.

    Raises LocateError where it cannot be written; what was there before stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise LocateError(f"cannot write {path}: {error}: free some space; the same command continues there") from error
