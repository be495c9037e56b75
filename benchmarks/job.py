"""The job that every engine is given: random weights in a known shape, and pairs of prompts of one length."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import locate
from locate.engine.rows import PlacedWrite, Row, Run

COMPONENTS = ("resid_pre", "attn_out", "mlp_out")
SHAPES = {
    "gpt2-small": {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257},
    "gpt2-xl": {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25, "vocab_size": 50257},
    "smollm2-135m": {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    "llama-7b": {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32000, "max_position_embeddings": 2048,
    },
}  # fmt: skip
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}

Cell = tuple[str, int, int]
"""component, layer, position"""


@dataclass(frozen=True, eq=False)
class Job:
    """Clean activations into corrupted runs: every component, layer and position from `first` on.

    clean, corrupted  token ids [pair, pos], equal at the positions below `first`
    answers           the two ids whose log-odds are read at the last token
    """

    clean: torch.Tensor
    corrupted: torch.Tensor
    answers: tuple[int, int]
    n_layers: int
    first: int

    def on(self, device: str) -> "Job":
        """The same job with its prompts on a device."""
        return replace(self, clean=self.clean.to(device), corrupted=self.corrupted.to(device))

    @property
    def cells(self) -> list[Cell]:
        """All sites that are patched."""
        n_pos = self.clean.shape[1]
        return [(c, layer, pos) for c in COMPONENTS for layer in range(self.n_layers) for pos in range(n_pos)]

    def runs(self, probabilities: bool = False) -> list[Run]:
        """Clean and corrupted runs in turn; the job reads log-odds, for which probabilities can be left out."""
        both = torch.stack([self.clean, self.corrupted], 1).flatten(0, 1).tolist()
        return [Run(tuple(ids), self.answers, normalised=probabilities) for ids in both]

    def rows(self) -> list[Row]:
        """One row for each cell and pair, cells outermost."""
        return [
            Row(2 * pair + 1, 2 * pair, (PlacedWrite(component, layer, None, pos, pos, "source"),))
            for component, layer, pos in self.cells
            for pair in range(len(self.clean))
        ]


def make_model(shape: str, folder: Path, layers: int | None = None) -> Path:
    """Save random weights in a shape, with the bundled model's tokenizer beside them; `layers` cuts the depth."""
    settings = dict(SHAPES[shape])
    kind = settings.pop("model_type")
    if layers is not None:
        settings["n_layer" if kind == "gpt2" else "num_hidden_layers"] = layers
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **settings, architectures=[ARCHITECTURES[kind]], bos_token_id=0, eos_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    bundled = Path(locate.__file__).parent / "mini"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled / file, folder / file)
    return folder


def make_job(pairs: int, n_pos: int, n_layers: int, first: int, vocabulary: int = 8000) -> Job:
    """Random prompts of `n_pos` tokens that are equal before position `first`."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(1, vocabulary, (2, pairs, n_pos), generator=generator)
    corrupted[:, :first] = clean[:, :first]
    return Job(clean, corrupted, (5, 7), n_layers, first)


def token_operations(d: int, kv: int, mlp: int, n_pos: int) -> int:
    """Operations of one block at one position: queries and output, keys and values, MLP, attention to `n_pos` keys."""
    return 4 * d * d + 4 * d * kv + mlp + 4 * n_pos * d


def operations(shape: str, job: Job) -> float:
    """The fewest floating-point operations that give the job's log-odds exactly.

    Each row from its layer and position on; behind the last attention the last position alone; two columns of the
    unembedding. Positions that are equal in both prompts, and sites that nothing reads, cost nothing.
    """
    settings = SHAPES[shape]
    d = settings.get("n_embd") or settings["hidden_size"]
    heads = settings.get("num_attention_heads", 1)
    kv = d * settings.get("num_key_value_heads", heads) // heads
    mlp = 16 * d * d if settings["model_type"] == "gpt2" else 6 * d * settings["intermediate_size"]
    n_pos, last = job.clean.shape[1], job.n_layers - 1
    token = token_operations(d, kv, mlp, n_pos)
    total = 0.0
    for component, layer, pos in job.cells:
        if pos < job.first or (layer == last and component != "resid_pre" and pos < n_pos - 1):
            continue
        entry = {"resid_pre": 0.0, "attn_out": mlp, "mlp_out": 0.0}[component]
        below = range(layer if component == "resid_pre" else layer + 1, job.n_layers)
        whole = sum((n_pos - pos) * token for at in below if at < last)
        end = (n_pos - pos - 1) * 4 * d * kv + token if last in below else 0.0
        total += entry + whole + end + 4 * d
    return total * len(job.clean)
