"""What the live page shows, kept in its address: a reload, or a copied link, shows the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlencode

SWITCHES = ("panel", "metric", "view", "kind", "direction", "quantity")
NUMBERS = ("cell", "pair")
FIELDS = ("template", "subject", "counterfactual", "female", "male")
TOKEN = "token"


@dataclass(frozen=True)
class State:
    """The settings of the page.

    panel      "A", or with two runs "B" or "B - A"
    metric, view, kind, direction, quantity  as in `analyse` and `rank`
    cell, pair the cell and the pair that are open; None for none
    prompt     the visitor's own prompt that was measured: the texts of FIELDS; () for none
    """

    panel: str
    metric: str
    view: str
    kind: str
    direction: str
    quantity: str
    cell: int | None = None
    pair: int | None = None
    prompt: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """The values of the switches alone."""
        return tuple(getattr(self, name) for name in SWITCHES)

    def query(self, token: str = "") -> str:
        """The state as the query of an address."""
        content = {name: value for name, value in asdict(self).items() if value is not None and name != "prompt"}
        content |= zip(FIELDS, self.prompt, strict=False)
        return "?" + urlencode(({TOKEN: token} if token else {}) | content)

    def asked(self, query: str | None) -> State:
        """This state with what the query of an address asks for; numbers that are none are left out."""
        texts = parse_qs((query or "").lstrip("?"), keep_blank_values=True)
        given = {name: values[0] for name, values in texts.items()}
        found: dict[str, Any] = {name: given[name] for name in SWITCHES if given.get(name)}
        found |= {name: int(given[name]) if given.get(name, "").isdecimal() else None for name in NUMBERS}
        if all(name in given for name in FIELDS):
            found["prompt"] = tuple(given[name] for name in FIELDS)
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
