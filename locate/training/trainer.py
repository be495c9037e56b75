"""Runs TRL's trainers on rows of token ids: nothing is sent, nothing global is left changed, progress is reported."""

from __future__ import annotations

import copy
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from locate.errors import LocateError
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step
from locate.model.products import precise
from locate.model.quiet import quiet_transformers
from locate.training.scope import Trained
from locate.training.tokens import TokenRow
from locate.training.twin import own_surroundings

QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
NO_INSTALL = 'training needs the packages trl and peft: pip install "locate-bias[train]"'
WARMUP = 0.1  # share of the steps in which the rate rises
CLIP = 1.0  # largest norm of the gradient
SAVED = 10  # times that a training is kept
KEPT = "trained.safetensors"
LENGTH = "length"
Look = Callable[[int, Any], None]
"""called with the number of finished steps and the network: may raise to stop"""


@dataclass(frozen=True)
class Recipe:
    """How rows are trained on, by AdamW.

    rate      largest step size; it rises over the first tenth of the steps and falls to 0 as a cosine
    batch     rows of a step
    at_once   of them that are read at once; None for all. DPO's loss is then the mean over these parts of each part's
              mean, so that rows of a last, smaller part weigh more
    decay     weight decay
    """

    epochs: int
    batch: int
    rate: float
    seed: int
    at_once: int | None = None
    decay: float = 0.0

    def __post_init__(self) -> None:
        least = min(self.epochs, self.batch, 1 if self.at_once is None else self.at_once)
        if least < 1 or not 0 < self.rate < math.inf or self.decay < 0:
            raise LocateError(
                f"epochs {self.epochs}, batch {self.batch}, at_once {self.at_once}, rate {self.rate}, decay "
                f"{self.decay}: expected positive numbers"
            )
        if self.batch % (self.at_once or self.batch):
            raise LocateError(f"at_once {self.at_once}: expected a divisor of the batch of {self.batch} rows")

    def steps(self, rows: int) -> int:
        """Optimiser steps for so many rows; the last step of an epoch may have fewer."""
        return self.epochs * math.ceil(rows / self.batch)


def check_installed() -> None:
    """Raise LocateError, with the way out, where TRL or PEFT is missing."""
    try:
        with quiet_transformers():
            import peft  # noqa: F401
            import trl  # noqa: F401
    except ImportError:
        raise LocateError(NO_INSTALL) from None


def check_device(model: CausalModel) -> None:
    """Raise LocateError for a device that TRL would not train on."""
    if model.device not in ("cpu", "cuda", "cuda:0"):
        raise LocateError(f"model {model.name!r} is on {model.device}: training runs on cpu or cuda:0: load it there")


def train_preferences(
    model: CausalModel,
    trained: Trained,
    rows: Sequence[TokenRow],
    recipe: Recipe,
    *,
    beta: float,
    sft: float = 0.0,
    look: Look,
    step: Step = ignore_step,
    place: Path | None = None,
) -> list[float]:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7) with TRL's DPOTrainer; the loss of every step.

    beta  how strongly the policy is held to the reference, which is the model itself: its log-probabilities of all
          rows are computed once, before training. Of rows that are `even` both take the mean of the two, so that
          such a row in both orders is best where both continuations are equally likely
    sft   weight of the chosen text's mean negative log-likelihood per token beside it (RPO)
    place folder in which a stopped training is kept, and found again; None keeps nothing

    Raises LocateError where the loss is no longer finite.
    """
    check_device(model)
    with quiet_training(), precise(model.dtype):
        from datasets import Dataset
        from trl import DPOConfig

        kinds = {"loss_type": ["sigmoid"]} if sft == 0 else {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, sft]}
        table = Dataset.from_list(
            [
                {
                    "prompt_ids": list(r.prompt),
                    "chosen_ids": list(r.chosen),
                    "rejected_ids": list(r.rejected),
                    LENGTH: r.length,
                }
                for r in rows
            ]
        )
        with folder_at(place) as folder:
            config = DPOConfig(
                **arguments(model, recipe, len(rows), folder, kept=place is not None),
                beta=beta,
                precompute_ref_log_probs=True,
                **kinds,
                disable_dropout=False,
            )
            config._n_gpu = 1  # of several that are visible
            watch = watcher(look, step)
            trainer = own_trainer("DPOTrainer", frozenset(place for place, row in enumerate(rows) if row.even))(
                model=trained.network, args=config, train_dataset=table, callbacks=[watch],
                processing_class=padded(model),
            )  # fmt: skip
            return run(trainer, watch, folder)


def train_completions(
    model: CausalModel,
    trained: Trained,
    rows: Sequence[TokenRow],
    recipe: Recipe,
    *,
    look: Look,
    step: Step = ignore_step,
    place: Path | None = None,
) -> list[float]:
    """Fine-tuning on the chosen continuations with TRL's SFTTrainer; the loss of every step.

    The loss is the mean negative log-likelihood (nats) of a step's continuation tokens; prompts are read, not learnt.
    `place` is that of `train_preferences`.

    Raises LocateError where the loss is no longer finite.
    """
    check_device(model)
    with quiet_training(), precise(model.dtype):
        from datasets import Dataset
        from trl import SFTConfig

        table = Dataset.from_list(
            [
                {
                    "input_ids": [*r.prompt, *r.chosen],
                    "labels": [*[-100] * len(r.prompt), *r.chosen],
                    LENGTH: r.length,
                }
                for r in rows
            ]
        )  # fmt: skip
        with folder_at(place) as folder:
            config = SFTConfig(
                **arguments(model, recipe, len(rows), folder, kept=place is not None),
                dataset_kwargs={"skip_prepare_dataset": True},
            )
            config._n_gpu = 1
            watch = watcher(look, step)
            trainer = own_trainer("SFTTrainer")(
                model=trained.network, args=config, train_dataset=table, callbacks=[watch],
                processing_class=padded(model),
            )  # fmt: skip
            return run(trainer, watch, folder)


@contextmanager
def folder_at(place: Path | None) -> Iterator[Path]:
    """The folder of a training, made where it is not there; a temporary one for None."""
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        yield place
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def arguments(model: CausalModel, recipe: Recipe, rows: int, folder: Path, *, kept: bool) -> dict[str, Any]:
    """What both of TRL's configurations take."""
    at_once = min(recipe.at_once or recipe.batch, rows)
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": math.ceil(min(recipe.batch, rows) / at_once),
        "num_train_epochs": recipe.epochs,
        "learning_rate": recipe.rate,
        "weight_decay": recipe.decay,
        "max_grad_norm": CLIP,
        "optim": "adamw_torch",
        "lr_scheduler_type": "cosine",
        "warmup_steps": int(WARMUP * recipe.steps(rows)),
        "seed": recipe.seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "activation_checkpointing": False,
        "max_length": None,
        "use_cpu": model.device == "cpu",
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "report_to": [],
        "save_strategy": "steps" if kept else "no",
        "save_steps": max(1, recipe.steps(rows) // SAVED),
        "save_total_limit": 2,
        "eval_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }


def padded(model: CausalModel) -> Any:
    """A copy of the model's tokenizer that pads with a token of the embedding, as TRL asks for; none reads padding."""
    tokenizer = copy.deepcopy(model.encoder.tokenizer)
    rows = int(model.network.get_input_embeddings().weight.shape[0])
    known = [each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if each is not None and each < rows]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(known[0])
    return tokenizer


def own_trainer(name: str, even: Collection[int] = ()) -> Any:
    """TRL's trainer of that name, which takes token ids as they are and tells nobody that it is used.

    even  places of the rows whose reference finds both continuations as likely
    """
    import trl

    def levelled(row: Any, place: int) -> dict[str, float]:
        both = [row["ref_chosen_logps"], row["ref_rejected_logps"]]
        if place in even:
            both = [sum(both) / 2] * 2
        return {"ref_chosen_logps": both[0], "ref_rejected_logps": both[1]}

    class Quiet(getattr(trl, name)):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            lengths = list((self.train_dataset if dataset is None else dataset)[LENGTH])
            return ByLength(lengths, self.args.train_batch_size * self.args.gradient_accumulation_steps, self.args.seed)

        def _precompute_ref_logps(self, *given: Any, **named: Any) -> Any:
            dataset = super()._precompute_ref_logps(*given, **named)
            return dataset.map(levelled, with_indices=True, keep_in_memory=True) if even else dataset

        def _send_telemetry(self) -> None:
            return None

        def create_model_card(self, *_: Any, **__: Any) -> None:
            return None

        def _save(self, output_dir: str, state_dict: Any = None) -> None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_file({name: one.contiguous() for name, one in opened(self.model).items()}, Path(output_dir) / KEPT)

        def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
            kept = load_file(Path(folder) / KEPT)
            for name, tensor in opened(self.model).items():
                tensor.copy_(kept[name])

    return Quiet


class ByLength(torch.utils.data.Sampler[int]):
    """An order of rows in which those of a step have about the same length, so that little of a step is padding.

    Steps come in random order, another in each epoch, that a training which goes on finds again.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = list(lengths), batch, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Said by the trainer when an epoch begins."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        stream = torch.Generator().manual_seed(self.seed + 7919 * self.epoch)
        ties = torch.rand(len(self.lengths), generator=stream).tolist()
        order = sorted(range(len(self.lengths)), key=lambda place: (self.lengths[place], ties[place]))
        steps = [order[first : first + self.batch] for first in range(0, len(order), self.batch)]
        whole, rest = (steps[:-1], steps[-1]) if len(steps[-1]) < self.batch else (steps, [])
        for number in torch.randperm(len(whole), generator=stream).tolist():
            yield from whole[number]
        yield from rest


def opened(network: Any) -> dict[str, torch.Tensor]:
    """The tensors that are trained, by name."""
    return {name: tensor.data for name, tensor in network.named_parameters() if tensor.requires_grad}


def watcher(look: Look, step: Step) -> Any:
    """A callback that reports progress, keeps every step's loss, and looks at the network where `look` wants to."""
    from transformers import PrinterCallback, TrainerCallback

    class Watcher(TrainerCallback):
        unwanted = PrinterCallback

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if logs and not math.isfinite(logs.get("loss", 0.0)):
                raise LocateError(
                    f"training: the loss is {logs['loss']} after step {state.global_step}: choose a smaller rate"
                )

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            step(state.global_step, state.max_steps)
            was = model.training
            model.eval()
            look(state.global_step, model)
            model.train(was)

    return Watcher()


def run(trainer: Any, watch: Any, folder: Path) -> list[float]:
    """Train, from the last step that the folder keeps; returns the loss of every step."""
    trainer.remove_callback(watch.unwanted)
    trainer.train(resume_from_checkpoint=last_kept(folder))
    trainer.model.eval()
    return [float(each["loss"]) for each in trainer.state.log_history if "loss" in each]


def last_kept(folder: Path) -> str | None:
    """The furthest step that was kept whole: its state is written last."""
    whole = [path for path in folder.glob("checkpoint-*") if is_json(path / "trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def is_json(path: Path) -> bool:
    """Whether a file holds JSON."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def quiet_training() -> Iterator[None]:
    """Inside the block the libraries of training show and send nothing, and what they change globally is put back."""
    import datasets
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = {kind: dict(kind._shared_state) for kind in (AcceleratorState, GradientState, PartialState)}
    shown = datasets.are_progress_bars_disabled()
    with own_surroundings(**QUIET), quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of arguments that TRL itself passes to transformers
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if not shown:
                datasets.enable_progress_bars()
            for kind, state in states.items():
                kind._shared_state.clear()
                kind._shared_state.update(state)
