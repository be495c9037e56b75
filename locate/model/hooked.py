"""A causal language model with hooks, and everything that depends on how TransformerLens names things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int

from locate.errors import LocateError
from locate.model.checkpoint import Checkpoint
from locate.model.encoder import Encoder, context_of
from locate.sites import UNITS, check

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
DTYPES |= {"tf32": torch.float32}  # fp32 numbers, multiplied in the short format of NVIDIA's tensor cores
SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}

HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "head": "blocks.{}.attn.hook_z",
    "neuron": "blocks.{}.mlp.hook_post",
    "mlp_out_unit": "blocks.{}.hook_mlp_out",
    "pattern": "blocks.{}.attn.hook_pattern",
}
EMBEDDING_HOOK = "hook_embed"
HOOK_LEVEL = -1  # tells these hooks from a user's own on the same bridge
MODULES = {"attn_out": "attn.o", "mlp_out": "mlp.out", "head": "attn.o", "neuron": "mlp.out", "mlp_out_unit": "mlp.out"}


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model, ready to be traced; made by `load`.

    name         as the user gave it
    checkpoint   where it came from: folder, revision, hash of its weights
    bridge       the TransformerBridge
    encoder      how it reads text
    checks       what the start-up check measured (see `locate.model.startup_check.verify`)
    unit_counts  heads, neurons and other units of a block, as far as they can be hooked one by one
    points       hook points by name; collecting them takes the bridge a millisecond, so it is done once
    options      it was loaded with
    threads      torch computes with while it is measured
    own_hooks    hook points that the bridge itself has hooks at
    """

    name: str
    checkpoint: Checkpoint
    bridge: Any
    encoder: Encoder
    dtype: str
    device: str
    checks: dict[str, float] = field(default_factory=dict)
    unit_counts: dict[str, int] = field(default_factory=dict)
    points: dict[str, Any] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    own_hooks: set[str] = field(default_factory=set, repr=False)
    threads: int = 1

    @property
    def quantised(self) -> int | None:
        """Bits that its matrices are held in; None for full weights."""
        bits: int | None = self.options.get("quantise")
        return bits

    def device_of(self, layer: int) -> torch.device:
        """Where a block is, with all that enters and leaves it; all on `device` but for models spread over several."""
        found: torch.device = next(self.blocks[layer].parameters()).device
        return found

    @property
    def devices(self) -> tuple[str, ...]:
        """Every device that holds some of its blocks, that of the embedding first."""
        return tuple(dict.fromkeys([self.device, *(str(self.device_of(layer)) for layer in range(self.n_layers))]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know about how the model was loaded, one sentence each."""
        return self.checkpoint.notes + self.encoder.notes

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self.encoder.tokenizer

    @property
    def prepend_bos(self) -> bool:
        """Whether something stands before every text."""
        return self.encoder.prepend_bos

    @property
    def context(self) -> int:
        """The longest prompt it takes, in tokens."""
        return context_of(self.bridge.original_model.config)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.bridge.cfg.n_layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads in a block."""
        return int(self.bridge.cfg.n_heads)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.bridge.cfg.d_model)

    @property
    def d_head(self) -> int:
        """Width of one head's output."""
        return int(self.bridge.cfg.d_head)

    @property
    def d_mlp(self) -> int:
        """Number of a block's MLP neurons; 4 d_model where they cannot be hooked one by one."""
        return self.unit_counts.get("neuron", 4 * self.d_model)

    @property
    def number_bytes(self) -> int:
        """Bytes of one number of its dtype."""
        return DTYPES[self.dtype].itemsize

    @property
    def n_kv_heads(self) -> int:
        """Number of key and value heads in a block."""
        return int(getattr(self.bridge.cfg, "n_key_value_heads", None) or self.n_heads)

    @property
    def d_vocab(self) -> int:
        """Number of pieces in the vocabulary."""
        return int(self.bridge.cfg.d_vocab)

    def units(self, component: str) -> int | None:
        """Number of units of a component in one layer; None for components that are whole vectors."""
        return self.unit_counts.get(component)

    def hook(self, component: str, layer: int) -> str:
        """Name of the hook point that holds a component's activation."""
        return HOOKS[component].format(layer)

    def check_components(self, components: Iterable[str]) -> None:
        """Raise LocateError for a component whose hook point this architecture lacks."""
        for component in components:
            check("component", component, tuple(HOOKS))
            lacking = [i for i in range(self.n_layers) if self.hook(component, i) not in self.bridge.hook_dict]
            if lacking or (component in UNITS and component not in self.unit_counts):
                raise LocateError(
                    f"model {self.name!r} ({self.checkpoint.architecture}) has no {component} to hook"
                    f"{f' in layers {lacking}' if lacking else ''}: choose other components, or another model"
                )

    def check_embedding(self) -> None:
        """Raise LocateError where the token embeddings cannot be hooked, as noise needs."""
        if EMBEDDING_HOOK not in self.bridge.hook_dict:
            raise LocateError(f"model {self.name!r} has no token embeddings to add noise to: use the swap corruption")

    def module(self, component: str, layer: int) -> str | None:
        """Hugging Face name of the module whose weights write a component; None for the residual stream."""
        path = MODULES.get(component)
        if path is None:
            return None
        try:
            return str(self.bridge.adapter.translate_transformer_lens_path(f"blocks.{layer}.{path}"))
        except ValueError:  # several modules write it together, as in a mixture of experts
            return None

    def module_templates(self) -> dict[str, str | None]:
        """For each component the Hugging Face module name with {} for the layer."""
        templates: dict[str, str | None] = {}
        for component in HOOKS:
            name = self.module(component, 0)
            templates[component] = None if name is None else name.replace(".0.", ".{}.", 1)
        return templates

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text, including what stands before it, and the character span of each token."""
        return self.encoder.encode(text)

    @property
    def blocks(self) -> Any:
        """The blocks, in order of depth; each called as its own Hugging Face model calls it."""
        return self.bridge.blocks

    @contextmanager
    def hooked(self, hooks: list[tuple[str, Callable]]) -> Iterator[None]:
        """Inside the block hook functions (activation, hook) -> activation are in place."""
        points = [self.hook_points()[name] for name, _ in hooks]
        try:
            for point, (_, hook) in zip(points, hooks, strict=True):
                point.add_hook(hook, level=HOOK_LEVEL)
            yield
        finally:
            for point in points:
                point.remove_hooks("fwd", level=HOOK_LEVEL)

    def hook_points(self) -> dict[str, Any]:
        """All hook points by name."""
        if not self.points:
            self.points.update(self.bridge.hook_dict)
        return self.points

    def foreign_hooks(self) -> list[str]:
        """Hook points inside the blocks that carry somebody else's hooks."""
        return sorted(self.hooks_in_blocks() - self.own_hooks)

    def hooks_in_blocks(self) -> set[str]:
        """Hook points inside the blocks that carry hooks."""
        points = self.hook_points().items()
        return {str(point.name) for name, point in points if name.startswith("blocks.") and point.has_hooks()}

    def final_logits(
        self, ids: Int[torch.Tensor, "row pos"], only: Sequence[int] | None = None
    ) -> Float[torch.Tensor, "row piece"]:
        """Logits at the last position of prompts of one length, at least fp32: of the whole vocabulary or some pieces.

        Where `only` names pieces, no other logits are computed.
        """
        with torch.inference_mode(), nullcontext() if only is None else self.unembedding_only(only):
            logits = self.logits(ids)[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    def logits(self, ids: Int[torch.Tensor, "row pos"]) -> Float[torch.Tensor, "row pos piece"]:
        """Logits at every position of prompts of one length, as the model computes them; gradients can flow."""
        found: torch.Tensor = self.bridge(ids.to(self.device), return_type="logits", prepend_bos=False)
        return found

    @contextmanager
    def unembedding_only(self, only: Sequence[int]) -> Iterator[None]:
        """Inside the block the model computes only the logits of the given pieces of its vocabulary, in that order."""
        head = self.bridge.unembed.original_component
        if type(head) is not torch.nn.Linear:
            raise LocateError(f"model {self.name!r} has no plain unembedding: probabilities cannot be left out")
        weight, bias = head.weight[list(only)], None if head.bias is None else head.bias[list(only)]

        def chosen(final: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(final.to(weight.device), weight, bias)

        with own_forward(head, chosen):
            yield

    def provenance(self) -> dict[str, object]:
        """What identifies the model in meta.json."""
        return {
            "name": self.name,
            "revision": self.checkpoint.revision,
            "weights_sha256": self.checkpoint.weights_sha256,
            "quantisation": self.checkpoint.quantisation,
            "quantise": self.quantised,
            "architecture": self.checkpoint.architecture,
            "tokenizer": type(self.tokenizer).__name__,
            "tokenizer_sha256": self.checkpoint.tokenizer_sha256,
            **self.encoder.provenance(),
            "dtype": self.dtype,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "d_model": self.d_model,
            "d_vocab": self.d_vocab,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.checkpoint.architecture}, {self.n_layers} layers, {self.n_heads} heads, "
            f"d_model {self.d_model}, {self.dtype} on {self.device})"
        )


@contextmanager
def own_forward(module: Any, forward: Callable) -> Iterator[None]:
    """Inside the block a module computes something else; afterwards what it did before, which may be accelerate's.

    The bridge hands ordinary assignments on to the module that it wraps.
    """
    before = vars(module).get("forward")
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(module, "forward")
        else:
            object.__setattr__(module, "forward", before)


def choose_device(device: str | None) -> str:
    """The device asked for, or the best there is.

    Raises LocateError for a device that cannot be used here.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise LocateError(f"device {device!r} is not usable here ({reason}): choose cpu, or leave it out") from None
    return device
