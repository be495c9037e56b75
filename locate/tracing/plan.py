"""Which patches are made in a pair, and where their writes fall in its two prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from locate.engine.rows import PlacedWrite, Row
from locate.errors import LocateError
from locate.files import hash_of
from locate.prompts.tokens import Aligned, TokenPair
from locate.sites import COMPONENTS, DIRECTIONS, PATTERN, ROLES, SEVERED, Patch, Site, Write, check

DEFAULT_COMPONENTS = ("resid_pre", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Map:
    """The patches of a map: one for each component, layer, unit, window and aligned token.

    components  of COMPONENTS; heads and neurons one by one
    layers      None for all
    roles       tokens to patch; None for all
    windows     widths in layers; widths above 1 are left out for resid_pre, where a later layer overwrites the earlier
    severed     outputs to freeze downstream of each single patch: "attn_out", "mlp_out" or "both" (see `Patch.cut`)
    keys        roles that a "pattern" is written at, one by one, from each token; None for all tokens at once
    only        these sites alone, of those that the rest describes; their positions are roles. None for all
    """

    components: tuple[str, ...] = DEFAULT_COMPONENTS
    layers: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None
    windows: tuple[int, ...] = (1,)
    severed: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None
    only: tuple[Site, ...] | None = None

    def __post_init__(self) -> None:
        for component in self.components:
            check("component", component, COMPONENTS)
        for role in (*(self.roles or ()), *(self.keys or ())):
            check("role", role, ROLES)
        if any(values is not None and not values for values in (self.layers, self.roles, self.keys)):
            raise LocateError(
                f"layers {self.layers}, roles {self.roles}, keys {self.keys}: expected some of each, or None for all"
            )
        if not self.components or not self.windows or min(self.windows) < 1:
            raise LocateError(
                f"components {self.components}, windows {self.windows}: expected some of each, and widths >= 1"
            )
        for name in ("components", "layers", "roles", "windows", "severed", "keys"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise LocateError(f"{name} {', '.join(map(str, values))}: expected each once")
        for each in self.severed:
            check("severed component", each, tuple(SEVERED))
        if self.severed and 1 not in self.windows and "resid_pre" not in self.components:
            raise LocateError(
                f"severed {self.severed} with windows {self.windows}: add window 1, since only single sites are severed"
            )
        if self.keys and PATTERN not in self.components:
            raise LocateError(f"keys {self.keys} without {PATTERN}: add {PATTERN} to the components")

    @property
    def hooked(self) -> set[str]:
        """The components that are written or frozen."""
        return {*self.components, *(frozen for each in self.severed for frozen in SEVERED[each])}

    def forms(self, n_layers: int, units: dict[str, int | None]) -> list[Patch]:
        """The patches of one token, with position 0 in place of each token's own.

        Raises LocateError for a layer the model does not have.
        """
        layers, forms = self.layers_of(n_layers), []
        for component in self.components:
            count = units[component]
            for layer in layers:
                for unit in [None] if count is None else range(count):
                    for key in self.keys if component == PATTERN and self.keys is not None else [None]:
                        forms += self.forms_of(Site(component, layer, 0, unit, key), n_layers)
        return forms

    def layers_of(self, n_layers: int) -> tuple[int, ...]:
        """The layers of a model that the map covers.

        Raises LocateError for a layer the model does not have.
        """
        layers = tuple(range(n_layers)) if self.layers is None else self.layers
        for layer in layers:
            if not 0 <= layer < n_layers:
                raise LocateError(f"layer {layer}: expected 0 to {n_layers - 1}")
        return layers

    def forms_by_role(self, n_layers: int, units: dict[str, int | None]) -> dict[str, list[Patch]]:
        """For each role, the patches of a token."""
        roles = ROLES if self.roles is None else self.roles
        if self.only is None:
            return dict.fromkeys(roles, self.forms(n_layers, units))
        found: dict[str, list[Patch]] = {role: [] for role in roles}
        for site in self.only:
            self.holds(site, n_layers, units)
            found[str(site.position)] += self.forms_of(replace(site, position=0), n_layers)
        return found

    def holds(self, site: Site, n_layers: int, units: dict[str, int | None]) -> None:
        """Raise LocateError for a chosen site that the rest of the map does not describe."""
        count = units.get(site.component)
        if (
            site.component not in self.components
            or site.layer not in self.layers_of(n_layers)
            or site.position not in (ROLES if self.roles is None else self.roles)
            or (site.unit is not None and (count is None or site.unit >= count))
            or (site.component == PATTERN and site.key not in (self.keys or (None,)))
        ):
            raise LocateError(
                f"{site} is not in the map: expected sites of its components, layers, roles, units and keys"
            )

    def forms_of(self, site: Site, n_layers: int) -> list[Patch]:
        """The patches of one site: plain, windowed and severed."""
        widths = (1,) if site.component == "resid_pre" else self.windows
        severed = self.severed if 1 in widths else ()
        whole = [Patch.at(site) if width == 1 else Patch.over(site, width, n_layers) for width in widths]
        return whole + [Patch.cut(site, each, n_layers) for each in severed]


@dataclass(frozen=True, eq=False, slots=True)
class Cell:
    """One row of the table to be: a patch placed in a pair.

    places  for each write the aligned tokens it covers, and for a pattern those attended to
    token   the one aligned token of the anchor; None when the patch covers several
    """

    patch: Patch
    places: tuple[tuple[Write, tuple[Aligned, ...], tuple[Aligned, ...]], ...]
    role: str
    token: Aligned | None


def cells_of_map(forms: Mapping[str, Sequence[Patch]], pair: TokenPair) -> Iterator[Cell]:
    """Every form of its role at every aligned token; patterns where the token attends to one of their keys."""
    for token in pair.aligned:
        for form in forms.get(token.role, ()):
            places = tuple((write, (token,), keys_at(write.site, pair)) for write in form.writes)
            if form.anchor.component != PATTERN or has_tokens(places):
                yield Cell(form, places, token.role, token)


def cells_of_patches(patches: Sequence[Patch], pair: TokenPair) -> Iterator[Cell]:
    """The caller's patches, each once, with every write at all aligned tokens of its position.

    A patch with a position that has no aligned token in this pair is left out; of a partial one, only that write is.
    """
    for patch in patches:
        places = tuple(
            (write, aligned_at(write.site.position, pair), keys_at(write.site, pair)) for write in patch.writes
        )
        there = tuple(place for place in places if has_tokens([place]))
        if there and (patch.partial or len(there) == len(places)):
            covered = {token for _, tokens, _ in there for token in tokens}
            first = there[0][1][0]
            anchor = aligned_at(patch.anchor.position, pair)
            role = anchor[0].role if anchor else first.role
            yield Cell(patch, there, role, first if len(covered) == 1 else None)


def keys_at(site: Site, pair: TokenPair) -> tuple[Aligned, ...]:
    """The aligned tokens that a pattern is written at; none for other components."""
    if site.component != PATTERN:
        return ()
    return tuple(token for token in pair.aligned if site.key in (None, token.role))


def has_tokens(places: Sequence[tuple[Write, tuple[Aligned, ...], tuple[Aligned, ...]]]) -> bool:
    """Whether every write has a token, and every pattern a token that it can attend to."""
    return all(
        tokens and (write.site.component != PATTERN or any(before(keys, token) for token in tokens))
        for write, tokens, keys in places
    )


def before(keys: Sequence[Aligned], token: Aligned) -> tuple[Aligned, ...]:
    """The keys that a token attends to: itself, and those that stand before it in both prompts."""
    return tuple(key for key in keys if key.clean <= token.clean and key.corrupted <= token.corrupted)


def aligned_at(position: int | str, pair: TokenPair) -> tuple[Aligned, ...]:
    """Aligned tokens of a role, or the one at a clean position."""
    return tuple(token for token in pair.aligned if position in (token.role, token.clean))


def row_of(cell: Cell, direction: str, base: int, source: int) -> Row:
    """The patched run of a cell in one direction, with its base run and source run."""
    check("direction", direction, DIRECTIONS)
    denoising = direction == "denoising"
    writes = [
        PlacedWrite(
            write.site.component,
            write.site.layer,
            write.site.unit,
            token.corrupted if denoising else token.clean,
            token.clean if denoising else token.corrupted,
            write.origin,
            tuple(
                (key.corrupted, key.clean) if denoising else (key.clean, key.corrupted) for key in before(keys, token)
            ),
        )
        for write, tokens, keys in cell.places
        for token in tokens
        if write.site.component != PATTERN or before(keys, token)
    ]
    return Row(base, source, tuple(writes))


def hash_of_patches(patches: Sequence[Patch]) -> str:
    """sha256 of what a list of patches does."""
    return hash_of(
        [
            [
                site_list(patch.anchor),
                [[*site_list(write.site), origin_text(write.origin)] for write in patch.writes],
                patch.window,
                patch.severed,
                patch.name,
                patch.partial,
            ]
            for patch in patches
        ]
    )


def site_list(site: Site) -> list[object]:
    """A site as JSON."""
    return [site.component, site.layer, site.position, site.unit, site.key]


def origin_text(origin: str | torch.Tensor) -> str:
    """An origin as text; a tensor by its numbers."""
    return origin if isinstance(origin, str) else hash_of(origin.double().flatten().tolist())
