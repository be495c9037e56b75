"""report.html of a run: the answer at first sight, the map whose cells open, the evidence, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import plotly.graph_objects as go

from locate.mediation.analysis import Analysis
from locate.mediation.effect_table import DEFINITION, OCCUPATION
from locate.mediation.located import Located, is_clear
from locate.report.page.answer import Answer, answer_of
from locate.report.page.document import Page, Section, items, table
from locate.report.page.glossary import GLOSSARY, described
from locate.report.page.lead import Bar, bar_list, figure_places, next_section
from locate.report.page.map_data import map_data
from locate.report.theme import bare
from locate.tracing.table import Trace
from locate.words import interval_words, site_words

MAP = """
<form id="settings" class="settings" aria-label="What the map shows"></form>
<p id="caption" class="caption" aria-live="polite"></p>
<div id="legend" class="legend" aria-hidden="true"></div>
<div id="maps"></div>
<article id="cell" class="cell" aria-live="polite" tabindex="-1">
<p>Choose a cell to see its interval, its controls and the prompts behind it.</p></article>
<noscript><p>The map needs JavaScript. The strongest cells are in the table below, all of them in effects.csv.</p>
</noscript>
"""


def run_page(
    analysis: Analysis,
    located: Located,
    figures: dict[str, go.Figure],
    *,
    commands: Sequence[str] = (),
    missing: str = "",
    lines: Sequence[str] = (),
    step: Callable[[str], None] = lambda _: None,
) -> str:
    """The report of a run as one HTML file; every text that comes from a prompt or a file is data, never markup.

    figures  of the run, by file name
    commands to type next
    missing  what could not be written, in a line
    lines    what the evidence says
    """
    told = answer_of(analysis, located, commands)
    sections = [
        Section("map", "Map", MAP),
        Section("evidence", "Evidence", items(lines)),
        Section("sites", "Strongest sites", strongest(located, analysis.subject)),
        Section("figures", "Figures", figure_places(figures, missing)),
        Section("provenance", "Where the numbers come from", provenance(analysis.trace, located)),
        Section("words", "Words", described(GLOSSARY)),
    ]
    return Page(
        title=title_of(analysis, located),
        lead=lead(told),
        sections=sections,
        figures={name: bare(each) for name, each in figures.items()},
        data=map_data(analysis, step),
    ).html()


def title_of(analysis: Analysis, located: Located) -> str:
    """What the page answers; a total effect that may be 0 is not called a bias."""
    what = {OCCUPATION: "gender bias", DEFINITION: "the gender that words say"}.get(located.kind, "gender")
    if not is_clear(located):
        return f"{analysis.model}: no effect found whose place could be told"
    return f"Where {analysis.model} carries {what if analysis.view == 'stereotype' else 'gender'}"


def lead(told: Answer) -> str:
    """The answer as the page's first screen."""
    carried = bars(told) or "<p>No site passes.</p>"
    return (
        f'<p class="question">{escape(told.question)}</p>\n<div class="answer">\n'
        f'<section aria-labelledby="carries"><h2 id="carries">What carries it</h2>{carried}</section>\n'
        f'<section aria-labelledby="sure"><h2 id="sure">How sure that is</h2>{items(told.sure)}</section>\n'
        f"{next_section(told.advice, told.commands)}\n</div>"
    )


def bars(told: Answer) -> str:
    """The carriers, each with a bar as long as its effect."""
    found = []
    for each in told.carriers:
        size = f"{interval_words(each.effect, each.low, each.high)} {told.unit}"
        share = "" if each.share is None else f", {abs(each.share):.0%} of the total"
        way = " the other way" if each.against else ""
        found.append(Bar(each.words, each.effect, f"{size}{share}{way}", each.against))
    return bar_list(found)


def strongest(located: Located, subject: str) -> str:
    """The ranked sites as a table."""
    where = [
        site_words(each.component, each.layer, each.role, each.unit, window=located.window, subject=subject)
        for each in located.sites
    ]
    rows = [
        each.cells() | {"site": words, "module": each.module or ""}
        for each, words in zip(located.sites, where, strict=True)
    ]
    about = f"Effects in {located.unit} with {located.level:.0%} intervals, strongest first."
    return f'<p class="caption">{escape(about)}</p>{table(rows)}' if rows else ""


def provenance(trace: Trace, located: Located) -> str:
    """Model, prompts, ledger, controls and versions as a table."""
    meta = trace.meta
    ledger = meta["ledger"]
    before = " ".join(meta["model"].get("before", ())) or ("BOS" if meta["model"]["prepend_bos"] else "-")
    facts = {
        "model": f"{meta['model']['name']} ({meta['model']['architecture']}), revision {meta['model']['revision']}",
        "weights sha256": meta["model"]["weights_sha256"],
        "dtype, device": f"{meta['model']['dtype']}, {meta.get('device', '')}",
        "before every prompt": before,
        "corruption": ", ".join(f"{key} {value}" for key, value in meta["corruption"].items()),
        "prompt pairs": f"{ledger['kept']} kept, {ledger['dropped']} dropped, {ledger['skipped']} skipped",
        **{f"left out: {reason}": str(count) for reason, count in ledger["reasons"].items()},
        **{
            f"note: {sentence}": f"{count} pair{'s' * (count > 1)}"
            for sentence, count in ledger.get("notes", {}).items()
        },
        **{f"check: {name}": f"{value:.2g}" for name, value in located.controls.items()},
        "versions": ", ".join(f"{name} {version}" for name, version in meta["libraries"].items()),
        "seconds": f"{meta['seconds']:.0f}",
    }
    return table([{"what": key, "value": value} for key, value in facts.items()], name="facts")
