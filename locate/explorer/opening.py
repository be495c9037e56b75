"""explore(): a run, or two, in a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from locate.editors.receipt_words import receipt_lines
from locate.errors import LocateError
from locate.explorer.runs import Runs, check_folders
from locate.files import read_json
from locate.words import without_folders

if TYPE_CHECKING:
    from locate.explorer.server import Page

EXTRA = "the live page needs Dash: pip install 'locate-bias[explore]'"
MOST_LINES = 5


def explore(
    *runs: str | Path,
    model: str | Path | None = None,
    edited: str | Path | None = None,
    port: int = 0,
    device: str | None = None,
    threads: int | None = None,
) -> Page:
    """Show a run, or two beside each other, in a live page on this machine; returns at once.

    runs     one run folder, A, or two, A and B
    model    to type prompts of one's own: a folder or a name, as `load` takes it; the run's own as a rule
    edited   an edited model beside it, as `locate-bias edit` writes it, with its receipt
    port     0 for any that is free
    device, threads  as in `load`

    Returns the page being served: its `url`, and `close()` to stop it. It listens on 127.0.0.1 alone and writes
    nothing; with a model its address carries a token.

    Raises LocateError for other than one or two runs, runs that do not match, an edited model without the one before
    the edit, a port that is taken, or where Dash is not installed.
    """
    folders = tuple(Path(each) for each in runs)
    check_folders(folders)
    if edited is not None and model is None:
        raise LocateError(f"edited {str(edited)!r}: expected the model before the edit beside it: give model too")
    try:
        from locate.explorer.app import make_app
        from locate.explorer.server import guard, new_token, serve
    except ModuleNotFoundError as error:
        raise LocateError(EXTRA) from error
    found, live = Runs.read(folders), None
    if model is not None:
        from locate.explorer.live import Live
        from locate.model.loading import load

        names = [str(model), *([] if edited is None else [str(edited)])]
        loaded = [load(name, device=device, threads=threads) for name in names]
        live = Live(tuple(zip(map(without_folders, names), loaded, strict=True)))
    token = new_token() if live is not None else ""
    app = make_app(found, live, lines_of_receipt(edited))
    guard(app, token)
    return serve(app, port, found.settle(found.first).query(token))


def lines_of_receipt(edited: str | Path | None) -> tuple[str, ...]:
    """The first lines of an edit's receipt, or that there is none; nothing where no edit was given."""
    if edited is None:
        return ()
    path = Path(edited) / "receipt.json"
    if not path.is_file():
        return (f"no receipt.json lies in {edited}: what the edit changed was not measured",)
    return tuple(receipt_lines(read_json(path))[:MOST_LINES])
