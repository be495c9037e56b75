"""Fixtures: small random models of many families, saved to disk and loaded through the real loader."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import typechecker
from jaxtyping import install_import_hook

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

hook = install_import_hook("locate", f"{typechecker.__name__}.check")

from families import FAMILIES, save_family  # noqa: E402
from gguf_models import network, write_gguf  # noqa: E402

from locate.editors import receipt  # noqa: E402
from locate.model.hooked import Model  # noqa: E402
from locate.model.loading import load  # noqa: E402
from locate.prompts import build  # noqa: E402

FEWER = {"persons": 12, "gendered": 4}  # one in so many rows of the package's tables of words


@pytest.fixture(autouse=True)
def checked_at_first():
    """The first calls in each test are those that are checked."""
    typechecker.begin_test()


@pytest.fixture(scope="module")
def unchecked_types():
    """For tests that run what users run, from end to end: types and shapes are checked by the tests of the parts.

    The checks take longer than the work they look at; whoever checks a whole run would check it twice.
    """
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def few_words():
    """For edits from end to end: fitted on fewer of the words beside the occupations, judged by fewer prompts."""
    whole = build.table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "table", lambda name: whole(name).iloc[:: FEWER.get(name, 1)])
        patch.setattr(receipt, "JUDGES", tuple(replace(test, read=partial(thinned, test)) for test in receipt.JUDGES))
        yield


def thinned(test, path):
    """Every ninth of a test's items."""
    items = test.read(path)
    return replace(items, rows=items.rows[::9])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with third-party data and weights beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED.name} beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Folder of a random model of a family, saved once."""
    saved: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in saved:
            saved[family] = save_family(family, tmp_path_factory.mktemp(family))
        return saved[family]

    return folder


@pytest.fixture(scope="session")
def model_of(folder_of):
    """A random model of a family, loaded once for each dtype."""
    loaded: dict[tuple[str, str], Model] = {}

    def model(family: str, dtype: str = "float32") -> Model:
        if (family, dtype) not in loaded:
            loaded[family, dtype] = load(str(folder_of(family)), dtype=dtype, device="cpu")
        return loaded[family, dtype]

    return model


@pytest.fixture(scope="session", params=FAMILIES)
def family_model(request, model_of) -> Model:
    """A random model of each family in turn."""
    return model_of(request.param)


@pytest.fixture(scope="session")
def gpt2(folder_of) -> Model:
    """The random GPT-2, with BOS in front of every text."""
    return load(str(folder_of("gpt2")), device="cpu", bos="yes")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory, worker_id):
    """A cache of this run of the tests, so that what an earlier version has unpacked is not read."""
    before = os.environ.get("XDG_CACHE_HOME")
    own = tmp_path_factory.getbasetemp()
    shared_by_all = own if worker_id == "master" else own.parent
    os.environ["XDG_CACHE_HOME"] = str(shared_by_all / "cache")
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory) -> Path:
    """A random Llama as a GGUF file."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", network("llama"), "Q8_0")
