"""What the live page shows, kept in its address: a reload, or a copied link, shows the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

SWITCHES = ("panel", "metric", "view", "kind", "direction", "quantity")
NUMBERS = ("cell", "pair")
TOKEN = "token"


@dataclass(frozen=True)
class State:
    """The settings of the page.

    panel      "A", or with two runs "B" or "B - A"
    metric, view, kind, direction, quantity  as in `analyse` and `rank`
    cell, pair the cell and the pair that are open; None for none
    """

    panel: str
    metric: str
    view: str
    kind: str
    direction: str
    quantity: str
    cell: int | None = None
    pair: int | None = None

    def query(self, token: str = "") -> str:
        """The state as the query of an address."""
        content = {name: value for name, value in asdict(self).items() if value is not None}
        return "?" + urlencode(({TOKEN: token} if token else {}) | content)

    def asked(self, query: str | None) -> State:
        """This state with what the query of an address asks for; numbers that are none are left out."""
        given = {name: values[0] for name, values in parse_qs((query or "").lstrip("?")).items()}
        known = {each.name for each in fields(self)}
        found: dict[str, Any] = {name: value for name, value in given.items() if name in known}
        found |= {name: int(given[name]) if given.get(name, "").isdecimal() else None for name in NUMBERS}
        return replace(self, **found)

    def settled(self, allowed: Mapping[str, list[str]]) -> State:
        """This state with the first allowed value of each switch whose own is not allowed."""
        other: dict[str, Any] = {
            name: values[0] for name, values in allowed.items() if getattr(self, name) not in values
        }
        return replace(self, **other)


def token_of(query: str | None) -> str:
    """The token in the query of an address; "" where there is none."""
    return parse_qs((query or "").lstrip("?")).get(TOKEN, [""])[0]
