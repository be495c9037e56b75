"""Fixtures: small random models of many families, saved to disk and loaded through the real loader.

The package and its libraries are loaded by the fixtures: the process that only hands tests out needs none of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest
import typechecker
from families import FAMILIES
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from locate.model.hooked import Model

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

hook = install_import_hook("locate", f"{typechecker.__name__}.check")


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
    from fewer import fewer_rows

    with pytest.MonkeyPatch.context() as patch:
        fewer_rows(patch)
        yield


@pytest.fixture
def one_setting(monkeypatch):
    """For runs from end to end: their page shows the run's own metric and view; tests of pages look at all of them."""
    monkeypatch.setattr("locate.report.page.map_data.settings_of", lambda analysis: [analysis])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with third-party data and weights beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED.name} beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Folder of a random model of a family, saved once."""
    from families import save_family

    saved: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in saved:
            saved[family] = save_family(family, tmp_path_factory.mktemp(family))
        return saved[family]

    return folder


@pytest.fixture(scope="session")
def model_of(folder_of):
    """A random model of a family, loaded once for each dtype."""
    from locate.model.loading import load

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
    from locate.model.loading import load

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
    from gguf_models import network, write_gguf

    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", network("llama"), "Q8_0")


@pytest.fixture(scope="module")
def browser():
    """Chromium, one for the tests of a module."""
    from browser import chromium

    with chromium() as found:
        yield found
