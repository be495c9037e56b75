"""Which patches are made in a pair, and where their writes fall in its two prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from locate.errors import LocateError
from locate.files import hash_of
from locate.prompts.tokens import Aligned, TokenPair
from locate.rows import Placed, Row
from locate.sites import COMPONENTS, DIRECTIONS, ROLES, Patch, Site, Write, check

DEFAULT_COMPONENTS = ("resid_pre", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Map:
    """The patches of a map: one for each component, layer, unit, window and aligned token.

    components  of COMPONENTS; heads and neurons one by one
    layers      None for all
    roles       tokens to patch; None for all
    windows     widths in layers; widths above 1 are left out for resid_pre, where a later layer overwrites the earlier
    severed     components to freeze downstream of each resid_pre patch (ROME's severed runs)
    """

    components: tuple[str, ...] = DEFAULT_COMPONENTS
    layers: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None
    windows: tuple[int, ...] = (1,)
    severed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for component in self.components:
            check("component", component, COMPONENTS)
        for role in self.roles or ():
            check("role", role, ROLES)
        if not self.components or not self.windows or min(self.windows) < 1:
            raise LocateError(f"components {self.components}, windows {self.windows}: expected some, and widths >= 1")
        for name in ("components", "layers", "roles", "windows", "severed"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise LocateError(f"{name} {', '.join(map(str, values))}: expected each once")
        if self.severed and "resid_pre" not in self.components:
            raise LocateError(f"severed {self.severed} without resid_pre: add resid_pre to the components")

    def forms(self, n_layers: int, units: dict[str, int | None]) -> list[Patch]:
        """The patches of one token, filed at position 0, to be placed at each.

        Raises LocateError for a layer the model does not have.
        """
        layers = range(n_layers) if self.layers is None else self.layers
        for layer in layers:
            if not 0 <= layer < n_layers:
                raise LocateError(f"layer {layer}: expected 0 to {n_layers - 1}")
        forms = []
        for component in self.components:
            count = units[component]
            for layer in layers:
                for unit in [None] if count is None else range(count):
                    forms += self.forms_of(Site(component, layer, 0, unit), n_layers)
        return forms

    def forms_of(self, site: Site, n_layers: int) -> list[Patch]:
        """The patches of one site: plain, windowed and severed."""
        if site.component == "resid_pre":
            return [Patch.at(site), *(Patch.cut(site, severed, n_layers) for severed in self.severed)]
        return [Patch.at(site) if width == 1 else Patch.over(site, width, n_layers) for width in self.windows]


@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One row of the table to be: a patch placed in a pair.

    places  for each write the aligned tokens it covers
    token   the one aligned token of the anchor; None when the patch covers several
    """

    patch: Patch
    places: tuple[tuple[Write, tuple[Aligned, ...]], ...]
    role: str
    token: Aligned | None


def cells_of_map(forms: Sequence[Patch], roles: Sequence[str] | None, pair: TokenPair) -> Iterator[Cell]:
    """Every form at every aligned token of the chosen roles."""
    for token in pair.aligned:
        if roles is None or token.role in roles:
            for form in forms:
                yield Cell(form, tuple((write, (token,)) for write in form.writes), token.role, token)


def cells_of_patches(patches: Sequence[Patch], pair: TokenPair) -> Iterator[Cell]:
    """The caller's patches, each once, with every write at all aligned tokens of its position.

    A patch of which a position has no aligned token in this pair is left out.
    """
    for patch in patches:
        places = tuple((write, aligned_at(write.site.position, pair)) for write in patch.writes)
        anchor = aligned_at(patch.anchor.position, pair)
        if anchor and all(tokens for _, tokens in places):
            covered = {token for _, tokens in places for token in tokens}
            yield Cell(patch, places, anchor[0].role, anchor[0] if len(covered) == 1 else None)


def aligned_at(position: int | str, pair: TokenPair) -> tuple[Aligned, ...]:
    """Aligned tokens of a role, or the one at a clean position."""
    return tuple(token for token in pair.aligned if position in (token.role, token.clean))


def row_of(cell: Cell, direction: str, clean_run: int, corrupted_run: int) -> Row:
    """The patched run of a cell in one direction."""
    check("direction", direction, DIRECTIONS)
    denoising = direction == "denoising"
    writes = [
        Placed(
            write.site.component,
            write.site.layer,
            write.site.unit,
            token.corrupted if denoising else token.clean,
            token.clean if denoising else token.corrupted,
            write.origin,
        )
        for write, tokens in cell.places
        for token in tokens
    ]
    if denoising:
        return Row(corrupted_run, clean_run, tuple(writes))
    return Row(clean_run, corrupted_run, tuple(writes))


def hash_of_patches(patches: Sequence[Patch]) -> str:
    """sha256 of what a list of patches does."""
    return hash_of(
        [
            [
                site_list(patch.anchor),
                [[*site_list(write.site), origin_text(write.origin)] for write in patch.writes],
                patch.window,
                patch.severed,
            ]
            for patch in patches
        ]
    )


def site_list(site: Site) -> list[object]:
    """A site as JSON."""
    return [site.component, site.layer, site.position, site.unit]


def origin_text(origin: str | torch.Tensor) -> str:
    """An origin as text; a tensor by its numbers."""
    return origin if isinstance(origin, str) else hash_of(origin.double().flatten().tolist())
