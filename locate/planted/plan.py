"""What is planted: where a bias enters a made model, where it is moved, and what is put beside it to mislead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from locate.errors import LocateError

LAYOUTS = ("gpt2", "llama")
D_HEAD = 16
DISTRACTORS = 2
LITTLE, SOME, MORE, MUCH = 0.006, 0.008, 0.015, 0.02  # standard deviation of every weight that is not planted

STEREOTYPE, DEFINITION = "stereotype", "definition"


@dataclass(frozen=True)
class Path:
    """A feature of a word, written by an MLP at the word, moved by a head to the last token.

    feature    which feature of the word it begins from: "stereotype", "definition", or "distractor 0" and so on
    channel    the direction that it is written in; MLPs of one channel add up, and share a head
    mlp_layer  whose MLP writes it at the last token of the word
    head_layer, head  that move it; above the MLP
    read       whether what is moved reaches the answer
    share      how much is written, as a share of what a path of its own writes
    carried    by the head's "values", or by its "weights": then it attends to the word only where the feature is
               positive, and moves the same whatever the feature
    """

    feature: str
    channel: str
    mlp_layer: int
    head_layer: int
    head: int
    read: bool
    share: float = 1.0
    carried: str = "values"


@dataclass(frozen=True)
class Readout:
    """The last layer's MLP at the last token, which turns what the stereotype's heads moved there into the answer.

    low, high  how much must have been moved, in units of one path, before it is read, and from where on no more is
               added
    signs      (1, -1): as much for the one answer as for the other; (1,): only for the first, and none otherwise
    """

    low: float
    high: float
    signs: tuple[int, ...] = (1, -1)


@dataclass(frozen=True)
class Variant:
    """A way to make a plan harder to read off.

    channels    share of each of the stereotype's channels
    parts       MLPs of each channel
    distractors  how many features are written and moved that nothing reads, and with which share
    background  standard deviation of every weight that is not planted
    alarm       whether an MLP drowns a word whose embedding is none of the vocabulary's
    swap        what stands in the corrupted prompts: an occupation of the "opposite" stereotype, or "anti": a word that
                says its gender
    """

    channels: tuple[float, ...] = (1.0,)
    parts: int = 1
    distractors: int = DISTRACTORS
    distractor_share: float = 1.0
    definition_share: float = 1.0
    background: float = LITTLE
    carried: str = "values"
    readout: Readout | None = None
    backup: bool = False
    alarm: bool = False
    swap: str = "opposite"


VARIANTS = {
    "plain": Variant(),
    "spread": Variant(channels=(0.25,), parts=4, background=MORE),
    "or": Variant(channels=(0.5,), parts=2, readout=Readout(-0.6, -0.3, signs=(1,)), background=SOME),
    "vote": Variant(channels=(1.0, 1.0, 1.0), readout=Readout(0.1, 0.3), background=SOME),
    "saturated": Variant(readout=Readout(0.2, 0.5), background=SOME),
    "backup": Variant(backup=True, background=MORE),
    "attention": Variant(carried="weights", background=MORE),
    "distractors": Variant(distractors=3, distractor_share=2.0, background=MORE),
    "background": Variant(channels=(1.0, 0.2, 0.2, 0.2), background=MUCH),
    "alarm": Variant(alarm=True, background=MORE),
    "definition": Variant(definition_share=1.5, swap="anti"),
}
"""plain        one path, little background
spread       one path whose feature four MLPs write in parts
or           two MLPs, either of which suffices for one of the answers
vote         three paths of which two decide: one alone changes next to nothing, under any patch
saturated    one path, read by an MLP that is saturated in every run: its slope is nothing
backup       a second MLP writes what the first one has not
attention    carried by where a head attends, not by what it moves: the softmax is saturated in every run
distractors  more of them, written and moved twice as strongly as the path
background   random weights three times as large, and three paths a fifth as strong
alarm        drowns words whose embedding is none of the vocabulary's, as under noise
definition   one path, corrupted with words that say their gender, whose own path is half as strong again
"""


@dataclass(frozen=True)
class Plan:
    """A model to be made.

    layout  "gpt2" (layer norms, plain MLPs) or "llama" (RMS norms, gated MLPs, rotary positions, grouped keys)
    paths   the stereotype's first, then the definition's, then the distractors'
    backup_layer  whose MLP writes the stereotype where the first one has not, or has written its opposite; None for
            none. It repairs what a patch of one site changes
    alarm_layer   whose MLP drowns a word off the manifold; None for none
    """

    layout: str
    seed: int
    n_layers: int
    n_heads: int
    paths: tuple[Path, ...]
    variant: str = "plain"
    backup_layer: int | None = None
    alarm_layer: int | None = None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.n_heads * D_HEAD

    @property
    def n_kv_heads(self) -> int:
        """Heads with keys and values of their own; pairs of heads share them in the Llama layout."""
        return self.n_heads // 2 if self.layout == "llama" else self.n_heads

    @property
    def kind(self) -> Variant:
        """What makes it hard."""
        return VARIANTS[self.variant]

    @property
    def readout(self) -> Readout | None:
        """How the last layer's MLP reads the stereotype; None where the unembedding does."""
        return self.kind.readout

    @property
    def stereotype(self) -> Path:
        """The path that is to be found; the first, where there are several."""
        return self.paths[0]

    def of(self, feature: str) -> tuple[Path, ...]:
        """All paths that begin from a feature."""
        return tuple(path for path in self.paths if path.feature == feature)


def draw_plan(seed: int, layout: str, variant: str = "plain") -> Plan:
    """A plan of random depth, width and places.

    variant  one of VARIANTS

    Raises LocateError for an unknown layout or variant.
    """
    for kind, value, expected in (("layout", layout, LAYOUTS), ("variant", variant, tuple(VARIANTS))):
        if value not in expected:
            raise LocateError(f"{kind} {value!r}: expected one of {', '.join(expected)}")
    rng = np.random.default_rng([seed, LAYOUTS.index(layout)])
    chosen = VARIANTS[variant]
    channels = channels_of(chosen)
    more = sum(len(channel.shares) for channel in channels) - 4  # MLPs, of which no two stand in one layer
    while True:
        n_layers, n_heads = int(rng.integers(5 + more, 9 + more)), int(rng.choice([4, 8]))
        paths = place_paths(channels, n_layers, n_heads, rng)
        plan = Plan(layout, seed, n_layers, n_heads, paths, variant)
        word, head = plan.stereotype.mlp_layer, plan.stereotype.head_layer
        backups = list(range(word + 1, head)) if chosen.backup else []
        alarms = [layer for layer in range(head) if layer != word] if chosen.alarm else []
        if bool(backups) == chosen.backup and bool(alarms) == chosen.alarm:
            backup, alarm = (int(rng.choice(each)) if each else None for each in (backups, alarms))
            return replace(plan, backup_layer=backup, alarm_layer=alarm)


@dataclass(frozen=True)
class Channel:
    """Paths to be placed: one for each share, all moved by one head."""

    feature: str
    name: str
    shares: tuple[float, ...]
    carried: str = "values"


def channels_of(variant: Variant) -> list[Channel]:
    """The stereotype's channels, the definition's, and the distractors'."""
    found = [
        Channel(STEREOTYPE, f"{STEREOTYPE} {index}", (share,) * variant.parts, variant.carried)
        for index, share in enumerate(variant.channels)
    ]
    found.append(Channel(DEFINITION, DEFINITION, (variant.definition_share,)))
    names = [f"distractor {index}" for index in range(variant.distractors)]
    return [*found, *(Channel(name, name, (variant.distractor_share,)) for name in names)]


def place_paths(channels: Sequence[Channel], n_layers: int, n_heads: int, rng: np.random.Generator) -> tuple[Path, ...]:
    """Paths with heads above their MLPs; no two heads in one pair, which may share keys and values."""
    free_layers = iter(rng.permutation(n_layers - 1).tolist())
    layers = {channel.name: [next(free_layers) for _ in channel.shares] for channel in channels}
    taken: set[tuple[int, int]] = set()
    heads: dict[str, tuple[int, int]] = {}
    for name, below in sorted(layers.items(), key=lambda each: -max(each[1])):  # the fewest choices first
        free = [
            (layer, pair)
            for layer in range(max(below) + 1, n_layers)
            for pair in range(n_heads // 2)
            if (layer, pair) not in taken
        ]
        layer, pair = free[rng.integers(len(free))]
        taken.add((layer, pair))
        heads[name] = layer, 2 * pair + int(rng.integers(2))
    return tuple(
        Path(
            channel.feature,
            channel.name,
            layer,
            *heads[channel.name],
            read=channel.feature in (STEREOTYPE, DEFINITION),
            share=share,
            carried=channel.carried,
        )
        for channel in channels
        for layer, share in zip(layers[channel.name], channel.shares, strict=True)
    )
