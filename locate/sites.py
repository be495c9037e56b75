"""Where in a model something is measured or written: components, roles, sites and patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from locate.errors import LocateError

if TYPE_CHECKING:
    import torch

COMPONENTS = ("resid_pre", "attn_out", "mlp_out", "head", "neuron")
UNITS = ("head", "neuron")

BEFORE, FIRST, MIDDLE, LAST_SUBJECT = "before_subject", "subject_first", "subject_middle", "subject_last"
AFTER, FURTHER, LAST = "after_subject", "further", "last"
ROLES = (BEFORE, FIRST, MIDDLE, LAST_SUBJECT, AFTER, FURTHER, LAST)

DIRECTIONS = ("denoising", "noising")
ORIGINS = ("source", "base", "zero")


def check(kind: str, value: str, expected: tuple[str, ...]) -> None:
    """Raise LocateError unless `value` is one of the expected words."""
    if value not in expected:
        raise LocateError(f"{kind} {value!r}: expected one of {', '.join(expected)}")


@dataclass(frozen=True)
class Site:
    """One activation: a component at a layer and position, and a unit of it for heads and neurons.

    position  a role (every token of that role), or a token index in the clean prompt
    unit      head or neuron index; None for a whole vector
    """

    component: str
    layer: int
    position: int | str
    unit: int | None = None

    def __post_init__(self) -> None:
        check("component", self.component, COMPONENTS)
        if isinstance(self.position, str):
            check("position", self.position, ROLES)
        if self.layer < 0 or (self.unit is not None and self.unit < 0):
            raise LocateError(f"layer {self.layer}, unit {self.unit} of {self.component}: expected indices from 0 up")
        if (self.unit is not None) != (self.component in UNITS):
            raise LocateError(
                f"unit {self.unit} of component {self.component!r}: expected an index for {' and '.join(UNITS)}, "
                "and None for the others"
            )


@dataclass(frozen=True, eq=False)
class Write:
    """One site and where its new value comes from.

    origin  "source" (the other run), "base" (the run itself: the site is frozen there), "zero", or a vector of the
            site's own width
    """

    site: Site
    origin: str | torch.Tensor = "source"

    def __post_init__(self) -> None:
        if isinstance(self.origin, str):
            check("origin", self.origin, ORIGINS)


@dataclass(frozen=True, eq=False)
class Patch:
    """A set of writes that are made in one run, filed in the table under its anchor.

    window   number of neighbouring layers written, 1 for a single site
    severed  the component whose outputs are frozen to the base run downstream of the anchor, or ""
    """

    anchor: Site
    writes: tuple[Write, ...]
    window: int = 1
    severed: str = ""

    @property
    def origin(self) -> str:
        """Where its values come from: "source", "base", "zero", "given", or several of them joined by +."""
        return "+".join(sorted({w.origin if isinstance(w.origin, str) else "given" for w in self.writes}))

    def __post_init__(self) -> None:
        if not self.writes:
            raise LocateError(f"patch at {self.anchor}: expected at least one write")

    @staticmethod
    def at(site: Site, origin: str | torch.Tensor = "source") -> Patch:
        """Write one site."""
        return Patch(site, (Write(site, origin),))

    @staticmethod
    def over(site: Site, window: int, n_layers: int) -> Patch:
        """Write `window` layers around the site's, [l - window/2, l + window/2) cut to the model (ROME, section 2)."""
        if window < 1:
            raise LocateError(f"window {window}: expected a number of layers >= 1")
        first = site.layer - window // 2
        layers = range(max(0, first), min(n_layers, first + window))
        sites = [Site(site.component, layer, site.position, site.unit) for layer in layers]
        return Patch(site, tuple(Write(each) for each in sites), window)

    @staticmethod
    def cut(site: Site, severed: str, n_layers: int) -> Patch:
        """Write the site from the source and freeze a component's outputs from its layer up (ROME, section 2.2)."""
        check("severed component", severed, ("attn_out", "mlp_out"))
        frozen = [Site(severed, layer, site.position) for layer in range(site.layer, n_layers)]
        return Patch(site, (Write(site), *(Write(each, "base") for each in frozen)), 1, severed)
