"""The training text of `mini`: three public corpora, the tokenizer trained on them, and packed token arrays."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

FILES = {
    "wikipedia": "corpus_wikipedia_2018/wikipedia_2018.jsonl.gz",
    "openstax": "corpus_openstax/openstax_ccby.jsonl.gz",
    "novels": "corpus_english_novels/english_novels_1880_1928.jsonl.gz",
}
SPLITS = ("train", "valid", "test")
END = "<|endoftext|>"
VOCABULARY = 8192
CONTEXT = 256


def documents(data: Path, corpus: str, split: str) -> Iterator[str]:
    """Texts of one corpus and split, in file order."""
    with gzip.open(data / FILES[corpus], "rt", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if record["split"] == split:
                yield record["text"]


def train_tokenizer(data: Path, folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `VOCABULARY` pieces over the training split of all corpora, saved to `folder`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for corpus in FILES for text in documents(data, corpus, "train"))
    bpe.train_from_iterator(texts, trainer)
    begins = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, bpe.token_to_id(END))])
    bpe.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begins])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END, model_max_length=CONTEXT
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def pack(data: Path, work: Path) -> PreTrainedTokenizerFast:
    """Tokenise every corpus and split once into `work/<corpus>.<split>.npy` (uint16, documents joined by END)."""
    folder = work / "tokenizer"
    if (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(data, folder)
    for corpus in FILES:
        for split in SPLITS:
            target = work / f"{corpus}.{split}.npy"
            if target.exists():
                continue
            ids: list[np.ndarray] = []
            for text in documents(data, corpus, split):
                row = tokenizer.backend_tokenizer.encode(text).ids
                ids.append(np.array([tokenizer.bos_token_id, *row], dtype=np.uint16))
            partial = target.with_suffix(".partial.npy")
            np.save(partial, np.concatenate(ids))
            partial.rename(target)
    return tokenizer


def tokens(work: Path, corpus: str, split: str) -> np.ndarray:
    """Packed tokens of one corpus and split, uint16."""
    return np.load(work / f"{corpus}.{split}.npy")
