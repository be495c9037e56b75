"""From evaluations to the table: which scores stand in it, their changes, and how they are written for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.change import EvaluationChange

ORIGINAL = "original"


@dataclass(frozen=True)
class Line:
    """One score of the table.

    ideal  what stands in its heading: what an unbiased, or a perfect model has; "" where nobody says
    """

    test: str
    name: str
    part: str
    title: str
    ideal: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """As scores are compared by."""
        return self.test, self.name, self.part


BIAS = (
    Line("occupations", "abs_log_odds", "held-out words", "occupations held out, mean abs log-odds (nats)", "0"),
    Line("occupations", "afgb", "held-out words", "occupations held out, AFGB (points)", "0"),
    Line("occupations", "pronouns", "held-out words", "occupations held out, she or he (%)"),
    Line("occupations", "definition_words", "", "words that say their gender (%)", "100"),
    Line("winobias", "gap", "", "WinoBias, pro less anti (nats)", "0"),
    Line("winobias", "prefers_pro", "", "WinoBias, stereotypical preferred (%)", "50"),
    Line("winogender", "log_odds", "occupation", "Winogender, log-odds (nats)", "0"),
    Line("winogender", "correlation", "occupation", "Winogender, r with share of women", "0"),
    Line("stereoset", "ss", "", "StereoSet gender, SS (%)", "50"),
    Line("stereoset", "lms", "", "StereoSet gender, LMS (%)", "100"),
    Line("stereoset", "icat", "", "StereoSet gender, ICAT", "100"),
    Line("crows_pairs", "pct_stereotype", "", "CrowS-Pairs gender (%)", "50"),
    Line("sentences", "log_odds", "", "others' sentences, log-odds (nats)", "0"),
    Line("sentences", "log_odds", "held out", "others' sentences, occupations held out (nats)", "0"),
    Line("sentences", "gap", "", "others' sentences, pro less anti (nats)", "0"),
    Line("bec_pro", "association", "", "BEC-Pro, association with women (nats)", "0"),
    Line("bec_pro", "correlation", "", "BEC-Pro, r with share of women", "0"),
    Line("biaske", "ss", "", "BiasKE-style, SS (%)", "50"),
    Line("biaske", "ps", "", "BiasKE-style, PS (%)", "50"),
    Line("biaske", "ds", "", "BiasKE-style, DS (%)", "100"),
)
ABILITY = (
    Line("perplexity", "perplexity", "", "perplexity of prose"),
    Line("lambada", "accuracy", "", "LAMBADA (%)", "100"),
    Line("hellaswag", "accuracy_normalised", "", "HellaSwag (%)", "100"),
    Line("piqa", "accuracy_normalised", "", "PIQA (%)", "100"),
    Line("arc_easy", "accuracy_normalised", "", "ARC-Easy (%)", "100"),
    Line("openbookqa", "accuracy_normalised", "", "OpenBookQA (%)", "100"),
    Line("winogrande", "accuracy", "", "WinoGrande (%)", "100"),
    Line("blimp", "accuracy", "", "BLiMP (%)", "100"),
    Line("blimp", "accuracy", "pronoun gender", "BLiMP, pronouns agree with names (%)", "100"),
)
NUMBERS = ("value", "low", "high")


def rows_of(method: str, changes: Sequence[EvaluationChange], lines: Sequence[Line]) -> list[dict[str, object]]:
    """The rows of one edited model, and of the original beside which it was measured (method "original").

    A score that needs both models (DS) has no change: it is one.

    Raises LocateError for a score of the table that was not measured.
    """
    found: list[dict[str, object]] = []
    pairs = {change.before.key: change for each in changes for change in each.changes}
    kept = {score.key: score for each in changes for score in each.retained}
    for line in lines:
        about = {"test": line.test, "score": line.name, "part": line.part}
        if line.key in kept:
            score = kept[line.key]
            found.append({"method": method} | about | values(score) | {"n": score.n})
            continue
        if line.key not in pairs:
            raise LocateError(f"{method} has no score {line.name!r} of {line.test!r} ({line.part}): evaluate it")
        change = pairs[line.key]
        found.append({"method": ORIGINAL} | about | values(change.before) | {"n": change.before.n})
        own = {"change": change.change, "change_low": change.low, "change_high": change.high, "paired": change.paired}
        found.append({"method": method} | about | values(change.after) | {"n": change.after.n} | own)
    return found


def values(score: object) -> dict[str, float]:
    """A score's value and the ends of its interval."""
    return {name: getattr(score, name) for name in NUMBERS}


def table_of(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """All rows, the original once a score.

    The parts of words held out are the same for all methods, which are fitted on the same words. Raises LocateError
    where the originals beside two methods differ: they were not measured on the same items.
    """
    table = pd.DataFrame(rows)
    own = table[table["method"] == ORIGINAL].drop(columns=["method"])
    unlike = own.groupby(["test", "score", "part"])["value"].nunique()
    if (unlike > 1).any():
        name = unlike.index[unlike > 1][0]
        raise LocateError(f"the original has two values of {name}: evaluate every method on the same items")
    return table.drop_duplicates(["method", "test", "score", "part"]).reset_index(drop=True)


def number(value: float) -> str:
    """Three figures, or whole from 100 up."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(row: Mapping[str, object] | None) -> str:
    """Value, its interval, and the change with its interval, bold where that leaves out 0."""
    if row is None:
        return ""
    value, low, high = (float(row[name]) for name in NUMBERS)  # type: ignore[arg-type]
    text = f"{number(value)} [{number(low)}, {number(high)}]" if low == low else number(value)
    change = row.get("change")
    if not isinstance(change, float) or change != change:
        return text
    ends = float(row["change_low"]), float(row["change_high"])  # type: ignore[arg-type]
    said = f"{change:+.3g} [{ends[0]:+.3g}, {ends[1]:+.3g}]" if ends[0] == ends[0] else f"{change:+.3g}"
    away = ends[0] == ends[0] and not ends[0] <= 0 <= ends[1]
    return f"{text}; {f'**{said}**' if away else said}"


def markdown(table: pd.DataFrame, lines: Sequence[Line]) -> str:
    """A table with a line for each score and a column for each method."""
    methods = list(dict.fromkeys([ORIGINAL, *table["method"]]))
    rows = {(row["method"], row["test"], row["score"], row["part"]): row for row in table.to_dict("records")}
    head = [f"| score (ideal) | n | {' | '.join(methods)} |", f"|---|---:|{'---|' * len(methods)}"]
    body = []
    for line in lines:
        found = [rows.get((method, *line.key)) for method in methods]
        if not any(found):  # of results that are older than the line
            continue
        count = next((row["n"] for row in found if row is not None), "")
        title = f"{line.title} ({line.ideal})" if line.ideal else line.title
        body.append(f"| {title} | {count} | {' | '.join(cell(row) for row in found)} |")
    return "\n".join([*head, *body]) + "\n"
