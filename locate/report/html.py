"""report.html: one self-contained page with the answer, the figures, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from locate.mediation.located import Located
from locate.report.quiet import CONFIG
from locate.tracing.table import Trace

STYLE = """
body { font: 15px/1.5 Arial, Helvetica, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px } th, td { padding: 3px 10px; text-align: right }
th { border-bottom: 1px solid #888 } td:first-child, th:first-child { text-align: left }
.missing { color: #a04000 } code { background: #f2f2f2; padding: 0 3px }
"""


@cache
def plotly_script() -> str:
    """plotly.js as a script element; read once."""
    return f"<script>{get_plotlyjs()}</script>"


def divisions(figures: dict[str, go.Figure]) -> dict[str, str]:
    """Each figure as a div element without plotly.js, by file name."""
    return {
        name: plotly.io.to_html(
            figure, config=CONFIG, include_plotlyjs=False, full_html=False, div_id=f"figure-{name}", validate=False
        )
        for name, figure in figures.items()
    }


def alone(div: str, script: str) -> str:
    """A page of one figure that needs no network."""
    return f'<html>\n<head><meta charset="utf-8" /></head>\n<body>\n{script}\n{div}\n</body>\n</html>\n'


def page(trace: Trace, located: Located, divs: dict[str, str], missing: str, lines: Sequence[str] = ()) -> str:
    """The report as HTML; every text that comes from a prompt or a file is escaped.

    divs  of its figures, as `divisions` returns them
    """
    drawn = "\n".join(divs.values())
    model = escape(str(trace.meta["model"]["name"]))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Gender bias located in {model}</title><style>{STYLE}</style>
{plotly_script()}</head><body>
<h1>Gender bias located in {model}</h1>
{answer(located)}
<p class="missing">{escape(missing)}</p>
{strongest(located)}
{evidence(lines)}
<h2>Figures</h2>
{drawn}
<h2>Where the numbers come from</h2>
{provenance(trace, located)}
</body></html>
"""


def answer(located: Located) -> str:
    """The located layers in one sentence."""
    what = f"{located.quantity} of {located.metric}, {located.direction}, q ≤ {located.threshold}"
    effect, low, high = located.total
    what += f"; total effect {effect:+.3f} [{low:+.3f}, {high:+.3f}] {located.unit}, positive is {located.positive}"
    what += "".join(f"; {limit}" for limit in located.limits())
    if located.without_stereotype:
        what += f"; {located.without_stereotype} pairs without a stereotype left out"
    if located.component is None or located.role is None:
        return f"<p>{escape(located.layers_line().capitalize())} ({escape(what)}).</p>"
    where = f"{located.component} at {located.role.replace('_', ' ')}"
    if not located.layers:
        return f"<p>No layer of <b>{escape(where)}</b> passes ({escape(what)}).</p>"
    layers = ", ".join(str(layer) for layer in located.layers)
    return (
        f"<p>Layers of <b>{escape(where)}</b> that carry the effect, strongest first: <b>{layers}</b> "
        f"({escape(what)}). That a site carries the bias does not prove that it is the best place to edit.</p>"
    )


def evidence(lines: Sequence[str]) -> str:
    """What the controls, sets and estimates say, as a list."""
    if not lines:
        return ""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>Evidence</h2><ul>{items}</ul>"


def strongest(located: Located) -> str:
    """The ranked sites as a table."""
    if not located.sites:
        return ""
    head = [f"effect ({located.unit})" if name == "effect" else name for name in located.head()]
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in located.rows()]
    cells = "\n".join(f"<tr>{row}</tr>" for row in rows)
    titles = "".join(f"<th>{escape(each)}</th>" for each in head)
    return f"<h2>Strongest sites</h2><table><tr>{titles}</tr>\n{cells}</table>"


def provenance(trace: Trace, located: Located) -> str:
    """Model, prompts, ledger, controls and versions as a table."""
    meta = trace.meta
    ledger = meta["ledger"]
    facts = {
        "model": f"{meta['model']['name']} ({meta['model']['architecture']}), revision {meta['model']['revision']}",
        "weights sha256": meta["model"]["weights_sha256"],
        "dtype, device": f"{meta['model']['dtype']}, {meta.get('device', '')}",
        "before every prompt": " ".join(meta["model"].get("before", ()))
        or ("BOS" if meta["model"]["prepend_bos"] else "-"),
        "corruption": ", ".join(f"{key} {value}" for key, value in meta["corruption"].items()),
        "prompt pairs": f"{ledger['kept']} kept, {ledger['dropped']} dropped, {ledger['skipped']} skipped",
        **{f"left out: {reason}": str(count) for reason, count in ledger["reasons"].items()},
        **{
            f"note: {sentence}": f"{count} pair{'s' * (count > 1)}"
            for sentence, count in ledger.get("notes", {}).items()
        },
        **{f"control: {name}": f"{value:.2g}" for name, value in located.controls.items()},
        "versions": ", ".join(f"{name} {version}" for name, version in meta["libraries"].items()),
        "seconds": f"{meta['seconds']:.0f}",
    }
    rows = "\n".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in facts.items())
    return f"<table>{rows}</table>"
