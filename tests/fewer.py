"""Fewer rows of the package's tables, for tests that run an edit from end to end and look at no score."""

from dataclasses import replace
from functools import partial

from locate.editors import receipt
from locate.prompts import build

FEWER = {"persons": 12, "gendered": 4}  # one in so many rows of the tables of words
JUDGED = 9  # one in so many of what a receipt judges by


def fewer_rows(patch, fewer=FEWER):
    """Take fewer rows, until the MonkeyPatch is undone."""
    whole = build.table
    patch.setattr(build, "table", lambda name: whole(name).iloc[:: fewer.get(name, 1)])
    fewer_judged(patch)


def fewer_judged(patch, whole=()):
    """Judge receipts by fewer items, but for the tests named in `whole`, until the MonkeyPatch is undone."""
    chosen = (test if test.name in whole else replace(test, read=partial(thinned, test)) for test in receipt.JUDGES)
    patch.setattr(receipt, "JUDGES", tuple(chosen))


def thinned(test, path):
    """Some of a test's bundled items; all of a file that the test itself chose."""
    items = test.read(path)
    return items if path else replace(items, rows=items.rows[::JUDGED])
