"""Linear layers whose weights are held in eight or four bits and unpacked for every product (bitsandbytes' formats)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float

from locate.errors import LocateError
from locate.model.quiet import quiet_transformers
from locate.sites import check

BITS = (8, 4)
FORMATS = {8: "int8, one scale for each row", 4: "nf4, with scales that are quantised too"}
BLOCK = 64  # numbers that share a scale in four bits
SHORTER = {torch.float64: torch.float32}  # which bitsandbytes does not take
SCALES = 256  # scales that share one in their turn
NO_INSTALL = (
    'quantised models need the package bitsandbytes: pip install "locate-bias[quantise]", or leave --quantise out'
)


class Product(torch.autograd.Function):
    """x times the transpose of a packed matrix, which is unpacked for the product and again for its gradient.

    Nothing else has a gradient. What is kept for it is the packed matrix, so no more than one is whole at a time.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: QuantisedLinear) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        ctx.layer = layer
        return torch.nn.functional.linear(x, layer.unpacked(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """[..., out] -> [..., in]"""
        return gradients[0] @ ctx.layer.unpacked(), None


class QuantisedLinear(torch.nn.Linear):
    """A frozen linear layer whose weight is held in eight or four bits; its products are those of the unpacked weight.

    Gradients pass through it, as factors that are trained beside it need.

    bitsandbytes' own layers also round what they multiply: in eight bits to int8, together with what the other tokens
    of the batch hold, and in four bits on some CPUs to bfloat16. Then a token's numbers depend on tokens after it, and
    no patch would be exact. Here the weights are rounded, and nothing else is.
    """

    scales: torch.Tensor  # of eight bits; the others are of four
    absmax: torch.Tensor
    code: torch.Tensor
    offset: torch.Tensor
    scales_absmax: torch.Tensor
    scales_code: torch.Tensor

    def __init__(self, weight: Float[torch.Tensor, "out in"], bias: torch.nn.Parameter | None, bits: int) -> None:
        """Take the place of a layer with this weight."""
        out, into = weight.shape
        super().__init__(into, out, bias=False, device="meta")
        self.bits, self.number = bits, weight.dtype
        packed, scales = pack_int8(weight) if bits == 8 else pack_nf4(weight)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.register_parameter("bias", bias)
        for name, tensor in scales.items():
            self.register_buffer(name, tensor)

    def unpacked(self) -> Float[torch.Tensor, "out in"]:
        """The weight out of its bits, in the dtype that it had."""
        from bitsandbytes.functional import QuantState, dequantize_4bit, int8_vectorwise_dequant

        if self.bits == 8:
            matrix: torch.Tensor = int8_vectorwise_dequant(self.weight, self.scales)
            return matrix.to(self.number)
        scales = QuantState(absmax=self.scales_absmax, blocksize=SCALES, code=self.scales_code, dtype=torch.float32)
        state = QuantState(
            self.absmax,
            shape=torch.Size((self.out_features, self.in_features)),
            code=self.code,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=SHORTER.get(self.number, self.number),
            offset=self.offset,
            state2=scales,
        )
        matrix = dequantize_4bit(self.weight, state)
        return matrix.to(self.number).contiguous()

    def forward(self, x: Float[torch.Tensor, "... in"]) -> Float[torch.Tensor, "... out"]:
        """The product with the unpacked weight."""
        if torch.is_grad_enabled():
            return Product.apply(x, self)
        return torch.nn.functional.linear(x, self.unpacked(), self.bias)


def pack_int8(weight: Float[torch.Tensor, "out in"]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A matrix in eight bits, as LLM.int8() holds it (Dettmers et al. 2022), and the scale of each row."""
    from bitsandbytes.functional import int8_vectorwise_quant

    packed, scales, _ = int8_vectorwise_quant(weight.contiguous().half())  # its kernels for GPUs take no other dtype
    return packed, {"scales": scales}


def pack_nf4(weight: Float[torch.Tensor, "out in"]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A matrix in four bits, as QLoRA holds it (Dettmers et al. 2023): its scales are quantised around an offset."""
    from bitsandbytes.functional import quantize_4bit

    weight = weight.to(SHORTER.get(weight.dtype, weight.dtype)).contiguous()
    packed, state = quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    assert state.state2.blocksize == SCALES
    return packed, {
        "absmax": state.absmax,
        "code": state.code,
        "offset": state.offset,
        "scales_absmax": state.state2.absmax,
        "scales_code": state.state2.code,
    }


def check_quantise(bits: int | None) -> None:
    """Raise LocateError for a number of bits that is not offered, and where bitsandbytes is not installed."""
    if bits is None:
        return
    check("quantise", str(bits), tuple(map(str, BITS)))
    try:
        with quiet_transformers():
            import bitsandbytes.functional  # noqa: F401
    except ImportError:
        raise LocateError(NO_INSTALL) from None


def quantise(network: Any, bits: int, device: str, whole: Collection[str] = ()) -> None:
    """Hold the linear layers of a network in a few bits, in place; all but the one that reads out the vocabulary.

    device  that packs each matrix, which comes back to where it was: a GPU is quicker, and need not hold all of them
    whole   layers whose numbers are rounded in the same way and held whole

    Raises LocateError where there is none, and for matrices that cannot be held so.
    """
    head = network.get_output_embeddings()
    found = [
        name for name, module in network.named_modules(remove_duplicate=False)
        if module is not head and is_linear(module)
    ]  # fmt: skip
    if not found:
        raise LocateError(
            f"{type(network).__name__} has no linear layers to be held in {bits} bits: leave --quantise out"
        )
    for name in found:
        holder, _, own = name.rpartition(".")
        layer = network.get_submodule(name)
        weight = layer.weight.detach() if isinstance(layer, torch.nn.Linear) else layer.weight.detach().T
        check_matrix(name, weight, bits)
        packed = QuantisedLinear(weight.to(device), layer.bias, bits).eval().to(weight.device)
        if name in whole:
            weight.copy_(packed.unpacked())
        else:
            setattr(network.get_submodule(holder), own, packed)


def is_linear(module: Any) -> bool:
    """Whether a module is a plain linear layer, as it is in most models or as in GPT-2."""
    return type(module) is torch.nn.Linear or type(module).__name__ == "Conv1D"


def check_matrix(name: str, weight: Float[torch.Tensor, "out in"], bits: int) -> None:
    """Raise LocateError for rows that are no whole number of blocks, which version 0.50 of bitsandbytes rounds to more
    than twice the error of others on a CPU, and for numbers beyond float16, through which eight bits go.
    """
    if bits == 4 and weight.shape[1] % BLOCK:
        raise LocateError(
            f"{name} has rows of {weight.shape[1]} numbers, which bitsandbytes rounds wrongly: four bits need a "
            f"multiple of {BLOCK}: choose --quantise 8, or leave it out"
        )
    if bits == 8 and not weight.half().isfinite().all():
        raise LocateError(f"{name} holds numbers beyond float16, through which eight bits go: choose --quantise 4")


def check_full_precision(model: Any) -> None:
    """Raise LocateError for a model with packed weights, by whichever library, whose numbers cannot be edited.

    model  as `load` or `load_causal` gives it
    """
    network = model.bridge.original_model if hasattr(model, "bridge") else model.network
    packed = [
        name for name, parameter in network.named_parameters()
        if not parameter.dtype.is_floating_point or parameter.dtype.itemsize < 2
    ]  # fmt: skip
    if packed:
        raise LocateError(
            f"model {model.name!r} is quantised ({packed[0]} is {network.get_parameter(packed[0]).dtype}), and editors "
            "need full precision: load it with load_causal; what a quantised trace located serves there too"
        )


def quantised_note(network: Any, bits: int, whole: Collection[str] = ()) -> str:
    """What a reader of the numbers must know, one sentence; `whole` as in `quantise`."""
    packed = {each: each.in_features * each.out_features for each in network.modules() if type(each) is QuantisedLinear}
    rest = sum(each.numel() for each in network.parameters() if each.dtype.is_floating_point)
    share = sum(packed.values()) / (sum(packed.values()) + rest)
    others = f"; {len(whole)} of queries, keys and values as one are rounded alike and held whole" if whole else ""
    return (
        f"{len(packed)} matrices with {share:.0%} of the numbers are held in {bits} bits ({FORMATS[bits]}){others}; "
        "products are those of the unpacked matrices: what is measured is the quantised model"
    )
