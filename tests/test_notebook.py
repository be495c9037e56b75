"""Objects in a notebook: each shows itself as a table in words, whose numbers are its own."""

import math
import re
from dataclasses import replace

import pytest
import torch
from handmade import GROUPS, map_trace, steady
from shown import read

import locate
from locate import Pair, Prompts
from locate.editors.edit import Edit, ParameterChange
from locate.editors.receipt_words import Receipt
from locate.evaluation.change import EvaluationChange, ScoreChange
from locate.evaluation.evaluation import Evaluation
from locate.evaluation.scores import Score
from locate.mediation.agreement import Agreement
from locate.mediation.comparison import compare_traces
from locate.mediation.controls import SetTest
from locate.mediation.located import LocatedSite
from locate.mediation.overlaps import Overlap
from locate.mediation.sets import Areas
from locate.model.stamp import Stamp
from locate.notebook import Rows, as_table, first_rows, sentences, title
from locate.words import decimals, with_interval

MARKUP = "<script>alert('a & b')</script>"
SITE = LocatedSite("head", 3, "last", 7, None, 1.25, 0.5, 2.0, 24, 12, 0.0004, 0.93)
SHARED = Overlap("noising", 10, 40, 7, 2, 0.7, 0.5, 0.9, 0.25, 0.8, 0.75, 0.6, 12, 11)
AGREED = Agreement("denoising", 5000, 120, 60, 0.91, 0.85, 0.95, 0.97, 6, 0.83, 0.024, 50, 0.058)
WORDS = Score("occupations", "log_odds", -0.5, -0.7, -0.3, "nats", 1040, 104, ideal=0.0, ties=2)
PROSE = Score("perplexity", "perplexity", 26.84, math.nan, math.nan, "perplexity", 8, 1, kind="ability")
META = {"model": {"name": f"folder/{MARKUP}", "dtype": "float32"}}
NAMED = "occupations: log-odds of she against he (log_odds)"


def renamed(trace, name, weights="w"):
    """The trace as if of another model."""
    model = trace.meta["model"] | {"name": name, "weights_sha256": weights * 64}
    return replace(
        trace, meta=trace.meta | {"model": model, "recipe": trace.meta["recipe"] | {"weights_sha256": weights * 64}}
    )


@pytest.fixture(scope="module")
def located():
    return locate.rank(renamed(map_trace(), "owner/own"))


def test_a_table_has_headings_of_columns_and_rows_and_no_empty_column():
    rows = [{"site": "a", "unit": "", "effect": "+1.0"}, {"site": "b", "unit": "", "effect": ""}]
    html = as_table(rows)
    assert html == (
        '<table><thead><tr><th scope="col" style="text-align:left">site</th>'
        '<th scope="col" style="text-align:right">effect</th></tr></thead><tbody>'
        '<tr><th scope="row" style="text-align:left">a</th><td style="text-align:right">+1.0</td></tr>'
        '<tr><th scope="row" style="text-align:left">b</th><td style="text-align:right"></td></tr></tbody></table>'
    )
    assert as_table([]) == ""


def test_every_text_is_escaped():
    for html in (title(MARKUP), sentences(MARKUP), as_table([{MARKUP: MARKUP, "b": MARKUP}])):
        assert "<script" not in html
        assert "&lt;script&gt;alert(&#x27;a &amp; b&#x27;)&lt;/script&gt;" in html


def test_long_tables_say_how_many_rows_there_are():
    rows = [{"n": str(number)} for number in range(12)]
    assert first_rows(rows).count("<tr>") == 11
    assert first_rows(rows).endswith("<p>10 of 12; frame() has all of them</p>")
    assert first_rows(rows[:10], 1234).endswith("<p>10 of 1,234; frame() has all of them</p>")
    assert first_rows(rows[:10]).endswith("</table>")


def test_rows_are_a_tuple_and_none_of_them_is_said():
    assert Rows([SHARED, SHARED]) == (SHARED, SHARED)
    assert read(Rows([SHARED, SHARED])).tables[0] == read(SHARED).tables[0] * 2
    assert Rows()._repr_html_() == "<p>none</p>"


def test_located_sites_stand_in_words_with_interval_share_q_and_stability(located):
    shown = read(located)
    assert shown.titles == [
        "Strongest sites of own: natural indirect effect (nie) on the log-odds of the female against the male "
        "answer, in nats"
    ]
    assert shown.sentences[0] == (
        "Total effect +4.00 [+4.00, +4.00] nats; positive is towards the stereotype. Values are copied from the clean "
        "into the corrupted run (denoising); 95% intervals over 12 occupations."
    )
    assert shown.sentences[1] == (
        "Layers for editors (MLP output, last token of the occupation), strongest first: 0, 1, 2."
    )
    (rows,) = shown.tables
    assert len(rows) == min(10, len(located.sites))
    digits = decimals(abs(located.sites[0].effect))
    for row, site in zip(rows, located.sites, strict=False):
        assert row["effect, nats, 95% interval"] == with_interval(site.effect, site.low, site.high, digits)
        assert float(row["share of the total"]) == pytest.approx(site.effect / 4.0, abs=0.0051)
        assert row["stability"] == f"{site.stability:.2f}"
        assert row["q"] == ("< 0.001" if site.q < 0.001 else f"{site.q:.2g}")
    assert rows[0]["site"] == "MLP output, layer 0, last token of the occupation"
    assert not {"n", "unit", "selectivity"} & set(rows[0])
    assert not re.search(r"mlp_out|subject_last|logit_diff", located._repr_html_())


def test_located_says_what_it_cannot_name(located):
    none = read(replace(located, layers=()))
    assert none.sentences[1].endswith("strongest first: none passes.")
    unnamed = read(replace(located, component=None, role=None, layers=(), why_no_layers="it has no module"))
    assert unnamed.sentences[1] == "No layer is named for editors: it has no module."
    fewer = replace(located, sites=(replace(located.sites[0], n=20), *located.sites[1:]))
    rows = read(fewer).tables[0]
    assert [row["n"] for row in rows[:2]] == ["20", "24"]
    assert rows[0]["share of the total"] == ""  # of fewer pairs than the total
    weak = replace(located, sites=(located.sites[0], replace(located.sites[1], effect=0.0123, low=0.01, high=0.02)))
    assert read(weak).tables[0][1]["effect, nats, 95% interval"] == "+0.01 [+0.01, +0.02]"
    few = locate.rank(map_trace(groups=GROUPS[:3]))
    assert read(few).sentences[-len(few.limits()) :] == few.limits() != []
    assert "share of the total" not in read(locate.rank(map_trace(), metric="odds_ratio")).tables[0][0]


def test_one_site():
    (row,) = read(SITE).tables[0]
    assert row == {
        "site": "attention head, layer 3, head 7, last token of the prompt",
        "effect and interval": "+1.25 [+0.50, +2.00]", "q": "< 0.001", "stability": "0.93", "n": "24",
    }  # fmt: skip


def test_the_set_test_is_two_rows():
    units = SetTest("head", "last", "noising", (3, 1), (7, 0), -2.3, -2.6, -1.95, 48, 48, 99, -0.42, 0.01)
    shown = read(units)
    assert shown.titles == ["The located set against random ones (noising)"]
    assert [list(row.values()) for row in shown.tables[0]] == [
        ["attention head, layers 3.7, 1.0, last token of the prompt", "-2.30 [-2.60, -1.95]"],
        ["the best of 99 random sets in the same layers", "-0.42"],
    ]
    assert shown.sentences == ["p 0.01; 48 pairs of 48 groups that the sites were not located on."]
    assert "layers 3, 1, last" in replace(units, units=(None, None))._repr_html_()


def test_areas_agreement_and_overlap():
    rows = read(Areas((0.91, 0.85, 0.97), (0.09, 0.03, 0.16), 40, 20)).tables[0]
    assert [list(row.values()) for row in rows] == [
        ["under the faithfulness (CPR)", "0.91 [0.85, 0.97]", "more is better"],
        ["between it and 1 (CMD)", "0.09 [0.03, 0.16]", "0 is best"],
    ]
    (row,) = read(AGREED).tables[0]
    assert row == {
        "estimates against exact effects": "denoising", "sites measured": "120 of 5,000",
        "of these drawn at random": "60", "rank correlation": "+0.91 [+0.85, +0.95]", "sign right": "97%",
        "strongest recalled": "83% of 6", "largest not chosen, nats": "0.024",
        "unmeasured beyond it, 95%": "6% at most",
    }  # fmt: skip
    chose_all = replace(AGREED, unchosen=0, hidden=math.nan, at_most=0.0)
    assert "largest not chosen, nats" not in read(chose_all).tables[0][0]
    (row,) = read(SHARED).tables[0]
    assert row == {
        "strongest sites of A and B": "noising", "shared": "7 of 10", "share and interval": "0.70 [0.50, 0.90]",
        "by chance": "0.25", "of opposite signs": "2", "halves of A's groups": "0.80", "of B's": "0.75",
        "one of each": "0.60",
    }  # fmt: skip


def test_a_trace_tells_its_model_pairs_and_what_was_traced():
    trace = renamed(map_trace(), MARKUP)
    shown = read(trace)
    assert shown.titles == [f"Trace of {MARKUP.rpartition('/')[2]} (PaperForCausalLM, float32)"]
    facts = {row["what"]: row["value"] for row in shown.tables[0]}
    assert facts == {
        "rows": f"{len(trace):,}", "pairs": "24 (0 dropped, 0 skipped)", "corruption": "swap",
        "directions": "denoising, noising", "components": "residual stream, attention output, MLP output",
        "layers": "0 to 2", "measured beside it": "nothing", "seconds": "1",
    }  # fmt: skip
    beside = {row["what"]: row["value"] for row in read(replace(map_trace(layers=1), sets=trace.table)).tables[0]}
    assert (beside["layers"], beside["measured beside it"]) == ("0", "sets")


def test_prompts_are_told_with_their_answers_and_notes():
    pair = Pair(
        "The nurse said", "The man said", "nurse", "man", MARKUP, "The {subject} said", "user", 1, " yes", " no"
    )
    prompts = Prompts((pair, replace(pair, group="b", stereotype=-1)) * 6, notes=(("are odd", 3),))
    shown = read(prompts)
    assert shown.titles == ["12 pairs, 2 groups, 0 skipped"]
    assert shown.sentences == ["10 of 12; frame() has all of them", "3 of them: are odd"]
    assert shown.tables[0][1] == {
        "clean": "The nurse said", "corrupted": "The man said", "group": "b", "kind": "user", "stereotype": "male",
        "answers": "yes, no",
    }  # fmt: skip


def more(component, layer, role, group):
    """`steady`, and less of it in one layer."""
    return steady(component, layer, role, group) * (0.25 if (component, layer) == ("mlp_out", 1) else 1.0)


def test_a_comparison_is_totals_and_changes_on_one_scale():
    found = compare_traces(map_trace(), renamed(map_trace(more), MARKUP, "v"), samples=200)
    shown = read(found)
    assert shown.titles[0].startswith(f"From paper (A) to {MARKUP.rpartition('/')[2]} (B): natural indirect effect")
    assert shown.sentences[0] == (
        "Positive is towards the stereotype; a positive change is more so in B. 24 pairs are in both, 0 in A "
        "alone, 0 in B alone; 95% intervals."
    )
    totals, sites, shared = shown.tables
    assert [row["total effect"] for row in totals] == ["denoising", "noising"]
    assert totals[0]["B - A"] == "0.00 [0.00, 0.00]"
    first = found.sites[0]
    assert sites[0]["largest changes"] == f"MLP output, layer 1, last token of the occupation ({first.direction})"
    assert sites[0]["B - A"] == with_interval(*first.change, 2)
    assert sites[0]["A"] == with_interval(*first.a, 2)
    assert len(sites) == 10
    assert [row["strongest sites of A and B"] for row in shared] == ["denoising", "noising"]
    one = compare_traces(map_trace(), renamed(map_trace(more), "b", "v"), samples=200, direction="noising")
    assert read(one).tables[1][0]["largest changes"] == "MLP output, layer 1, last token of the occupation"
    told = [replace(each, meta=each.meta | {"prompts": {"answers": words}}) for each, words in (
        (map_trace(), [" she", " he", None]), (renamed(map_trace(more), "b", "v"), [" she", " he", None]),
    )]  # fmt: skip
    assert "on the log-odds of she against he, in nats" in read(compare_traces(*told, samples=200)).titles[0]
    told[1] = replace(told[1], meta=told[1].meta | {"prompts": {"answers": [" her", " his", None]}})
    assert "log-odds of she" not in read(compare_traces(*told, samples=200)).titles[0]
    odd = replace(one, sites=(replace(one.sites[0], severed="mlp_out", window=3),), overlaps=())
    assert "(window 3, mlp_out severed)" in odd._repr_html_()


def test_scores_are_told_with_interval_ideal_and_what_was_left_out():
    (row,) = read(WORDS).tables[0]
    assert row == {
        "score": NAMED, "value and interval": "-0.50 [-0.70, -0.30] nats", "which way": "nearer to 0 is less biased",
        "ideal": "0", "n": "1,040", "groups": "104", "left out": "2 ties",
    }  # fmt: skip
    found = Evaluation(META, (PROSE, WORDS), {})
    shown = read(found)
    assert shown.titles[0].startswith("Bias and ability of ")
    assert [(row["score"], row["kind"]) for row in shown.tables[0]] == [
        (NAMED, "bias"), ("perplexity: perplexity per token (perplexity)", "ability"),
    ]  # fmt: skip
    assert shown.tables[0][1]["value and interval"] == "26.8 perplexity (no interval)"
    assert read(found.of("occupations")).tables[0] == [row]
    many = tuple(replace(WORDS, part=f"part {number}") for number in range(40))
    assert read(Evaluation(META, (WORDS, *many), {})).sentences == ["1 of 41; frame() has all of them"]


def test_a_change_of_scores_says_how_many_moved():
    after = replace(WORDS, value=-0.2, low=-0.3, high=-0.1)
    moved, still = (
        ScoreChange(WORDS, after, 0.3, 0.2, 0.4, True, 104),
        ScoreChange(PROSE, PROSE, 0.0, -1.0, 1.0, False, 0),
    )
    sides = Evaluation(META, (WORDS, PROSE), {}), Evaluation({"model": {"name": "b"}}, (after, PROSE), {})
    found = EvaluationChange(*sides, (moved, still), (), (), (), {"limit": [5, None]})
    shown = read(found)
    assert shown.sentences == ["1 of 2 scores moved beyond their interval.", "limit: 5 before, None after."]
    assert shown.tables[0][0] == {
        "score": NAMED, "verdict": "better", "which way": "nearer to 0 is less biased",
        "before": "-0.50 [-0.70, -0.30] nats", "after": "-0.20 [-0.30, -0.10] nats",
        "change and interval": "+0.30 [+0.20, +0.40]", "paired": "by item",
    }  # fmt: skip
    assert len(shown.tables) == 1
    kept = read(replace(found, retained=(WORDS,)))
    assert (kept.titles[-1], len(kept.tables)) == ("Needs both models", 2)


def test_an_edit_lists_what_it_changes():
    changes = {f"h.{number}.{MARKUP}": ParameterChange((torch.full((3, 4), 0.5),)) for number in range(12)}
    changes["h.0.thin"] = ParameterChange((torch.ones(3, 1), torch.ones(1, 4)))
    edited = {"words": ["nurse", "chef"], "templates": ["The {subject} said"]}
    edit = Edit(
        "lsdm",
        {"name": "folder/own"},
        dict(reversed(changes.items())),
        edited=edited,
        located={"edited_layers": [0, 2]},
    )
    shown = read(edit)
    assert shown.titles == ["Edit of own by lsdm"]
    assert shown.sentences == [
        "Changed: layers 0, 2. Fitted on 2 words in 1 templates.", "10 of 13; frame() has all of them",
    ]  # fmt: skip
    assert shown.tables[0][0] == {
        "parameter": "h.0.thin", "shape": "3x4", "rank": "1", "norm of the change": "3.46",
        "largest number of it": "1.00",
    }  # fmt: skip
    assert shown.tables[0][1]["norm of the change"] == "1.73"
    assert edit.frame()["norm"].tolist()[:2] == pytest.approx([12**0.5, 3**0.5])
    stamp = Stamp(2, "h.{}.mlp", torch.ones(1, 4), torch.ones(4, 1))
    stamped = read(replace(edit, changes=dict(list(edit.changes.items())[:9]), stamps=(stamp,)))
    assert stamped.sentences[-1] == "10 of 11; frame() has all of them"
    assert stamped.tables[0][9]["norm of the change"] == "2.00"
    everywhere = replace(edit, located={"edited_layers": "the linear layers"})
    assert "Changed: the linear layers." in everywhere._repr_html_()


def as_json(score):
    return {name: getattr(score, name) for name in Score.__dataclass_fields__}


def test_a_receipt_shows_scores_before_and_after():
    after = replace(WORDS, value=-0.2, low=-0.3, high=-0.1)
    part = replace(WORDS, name="pronouns", part="held-out words", kind="control")
    receipt = Receipt(
        method="lsdm",
        model={"name": "folder/own"},
        located={"edited_layers": [0]},
        tensors={"changed": [1], "added": [], "unchanged": 77, "files": None},
        reload={"largest_difference": 1e-5},
        load={},
        scores={
            "cut": {"held_out": as_json(replace(WORDS, value=68.0, low=60.0, high=74.0))},
            "kept": [],
            "perplexity_change": as_json(replace(PROSE, value=0.08)),
            "before": [as_json(PROSE) | {"low": None, "high": None}, as_json(WORDS), as_json(part)],
            "after": [as_json(PROSE), as_json(after), as_json(part)],
        },
    )
    shown = read(receipt)
    assert shown.titles == ["Receipt of lsdm on own"]
    told, scores = shown.tables
    assert told[0] == {"what": "held-out occupations", "found": "mean |log-odds| cut by 68.0 [60.0, 74.0] %"}
    assert told[-1]["what"] == "reloaded from disk"
    assert len(scores) == 2
    assert scores[0] == {
        "score": NAMED, "before": "-0.50 [-0.70, -0.30] nats", "after": "-0.20 [-0.30, -0.10] nats", "n": "1,040",
    }  # fmt: skip
    assert receipt["tensors"]["unchanged"] == 77
