"""Cut the package's texts from novels that `mini` was not trained on.

    python experiments/mini/excerpts.py --data DATA [--out FOLDER]

The test split gives a dozen excerpts that `evaluate` reads for perplexity, the valid split the passages that editors
preserve. Each is whole paragraphs, at evenly spaced places of its novel; the splits share no novel.
"""

import argparse
import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from corpus import FILES

NOVELS = {
    "Burnett_Garden_1911": ("burnett", "Frances Hodgson Burnett", "The Secret Garden", 1911),
    "Kipling_Captains_1896": ("kipling", "Rudyard Kipling", "Captains Courageous", 1896),
    "Morris_Roots_1890": ("morris", "William Morris", "The Roots of the Mountains", 1890),
    "Ward_Ashe_1905": ("ward", "Mary Augusta Ward", "The Marriage of William Ashe", 1905),
}
TEST, TEST_BYTES = 6, 5_000  # excerpts of a novel, and bytes of each
VALID, VALID_BYTES = 10, 10_000
TEXTS = Path(__file__).resolve().parents[2] / "locate" / "evaluation" / "text"


def novels(data: Path, split: str) -> Iterator[tuple[str, str]]:
    """Id and text of each novel of a split, in file order."""
    with gzip.open(data / FILES["novels"], "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record["split"] == split:
                yield record["id"], record["text"]


def excerpts(text: str, count: int, size: int) -> list[str]:
    """`count` runs of whole paragraphs of about `size` bytes, at evenly spaced places; none overlaps another."""
    paragraphs = [line for line in text.splitlines() if line.strip()]
    found, last = [], 0
    for number in range(count):
        place, taken = len(paragraphs) * (2 * number + 1) // (2 * count), []
        assert place >= last, "excerpts overlap"
        while sum(len(line.encode()) + 1 for line in taken) < size:
            taken.append(paragraphs[place + len(taken)])
        found.append("\n".join(taken) + "\n")
        last = place + len(taken)
    return found


def main() -> None:
    """Write the texts and the table of their sources."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds corpus_english_novels")
    parser.add_argument("--out", type=Path, default=TEXTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows, preserved = [], []
    for name, text in novels(options.data, "test"):
        short, *about = NOVELS[name]
        for number, each in enumerate(excerpts(text, TEST, TEST_BYTES), start=1):
            (options.out / f"{short}_{number}.txt").write_text(each, encoding="utf-8")
            rows.append([f"{short}_{number}.txt", *about])
    for name, text in novels(options.data, "valid"):
        preserved += excerpts(text, VALID, VALID_BYTES)
        rows.append(["preserve.txt", *NOVELS[name][1:]])
    (options.out / "preserve.txt").write_text("".join(preserved), encoding="utf-8")
    with (options.out / "sources.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["file", "author", "title", "year"], *rows])


if __name__ == "__main__":
    main()
