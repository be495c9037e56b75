"""Where in a model something is measured or written: components, roles, sites and patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from locate.errors import LocateError

if TYPE_CHECKING:
    import torch

COMPONENTS = ("resid_pre", "attn_out", "mlp_out", "head", "neuron", "mlp_out_unit", "pattern")
UNITS = ("head", "neuron", "mlp_out_unit", "pattern")
PATTERN = "pattern"
SEVERED = {"attn_out": ("attn_out",), "mlp_out": ("mlp_out",), "both": ("attn_out", "mlp_out")}

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
    """One activation: a component at a layer and position, and one of its units where it has any.

    position  a role (every token of that role), or a token index in the clean prompt
    unit      index of a head ("head", "pattern"), of a neuron, or of one number of the MLP's output ("mlp_out_unit",
              what Vig et al. 2020 call a neuron); None for a whole vector
    key       for a "pattern", the attention weights of one head from the token at `position`: the role of the tokens
              attended to; None for all. Weights that are not written keep their value, so a row need not add up to 1
    """

    component: str
    layer: int
    position: int | str
    unit: int | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        check("component", self.component, COMPONENTS)
        if isinstance(self.position, str):
            check("position", self.position, ROLES)
        if self.layer < 0 or (self.unit is not None and self.unit < 0):
            raise LocateError(f"layer {self.layer}, unit {self.unit} of {self.component}: expected indices from 0 up")
        if (self.unit is not None) != (self.component in UNITS):
            raise LocateError(
                f"unit {self.unit} of component {self.component!r}: expected an index for {', '.join(UNITS)}, "
                "and None for the others"
            )
        if self.key is not None:
            check("key", self.key, ROLES)
            if self.component != PATTERN:
                raise LocateError(f"key {self.key!r} of component {self.component!r}: only a {PATTERN} has keys")


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
    """A set of writes that are made in one run; the table lists it at its anchor.

    window   number of neighbouring layers written, 1 for a single site
    severed  which outputs are frozen to the base run downstream of the anchor (see `cut`), or ""
    name     the caller's name for it in the table, "" for a patch that its anchor alone tells from all others
    partial  whether a pair that has no token for some of the writes is patched at the others; without it such a pair
             is left out
    """

    anchor: Site
    writes: tuple[Write, ...]
    window: int = 1
    severed: str = ""
    name: str = ""
    partial: bool = False

    @property
    def origin(self) -> str:
        """Where its values come from: "source", "base", "zero", "given", or several of them joined by +."""
        frozen = {"base"} if self.severed else set()  # none in the last layer, where nothing lies downstream
        return "+".join(sorted(frozen | {w.origin if isinstance(w.origin, str) else "given" for w in self.writes}))

    def __post_init__(self) -> None:
        if not self.writes:
            raise LocateError(f"patch at {self.anchor}: expected at least one write")

    @staticmethod
    def at(site: Site, origin: str | torch.Tensor = "source") -> Patch:
        """Write one site."""
        return Patch(site, (Write(site, origin),))

    @staticmethod
    def joint(name: str, sites: Sequence[Site], origin: str = "source") -> Patch:
        """Write several sites at once, in each pair those it has tokens for; listed at the first site, under a name."""
        if not sites:
            raise LocateError(f"set {name!r} has no sites: expected at least one")
        return Patch(sites[0], tuple(Write(each, origin) for each in sites), name=name, partial=True)

    @staticmethod
    def over(site: Site, window: int, n_layers: int) -> Patch:
        """Write `window` layers around the site's, [l - window/2, l + window/2) cut to the model (ROME, section 2)."""
        if window < 1:
            raise LocateError(f"window {window}: expected a number of layers >= 1")
        first = site.layer - window // 2
        layers = range(max(0, first), min(n_layers, first + window))
        sites = [replace(site, layer=layer) for layer in layers]
        return Patch(site, tuple(Write(each) for each in sites), window)

    @staticmethod
    def cut(site: Site, severed: str, n_layers: int) -> Patch:
        """Write the site from the source and freeze outputs of its own token that lie downstream of it.

        severed  "attn_out" or "mlp_out" (ROME's severed runs, section 2.2, there of the residual stream), or "both":
                 the direct path. At the last token that is what the write itself adds to the final residual stream,
                 with no later layer responding; at other tokens, what later tokens read of the write itself
        """
        check("severed component", severed, tuple(SEVERED))
        frozen = [
            Site(component, layer, site.position)
            for component in SEVERED[severed]
            for layer in range(first_reader(site, component), n_layers)
        ]
        return Patch(site, (Write(site), *(Write(each, "base") for each in frozen)), 1, severed)


def first_reader(site: Site, component: str) -> int:
    """The first layer whose attn_out or mlp_out at the same token can change when the site does.

    A block's MLP follows its attention; where both run in parallel, freezing it there changes nothing.
    """
    before_mlp = site.component in ("attn_out", "head", PATTERN)
    here = site.component == "resid_pre" or (before_mlp and component == "mlp_out")
    return site.layer if here else site.layer + 1
