"""Tracing: what lands in the table, in meta, and in the run folder; interruption and resumption."""

import errno
import json

import numpy as np
import pandas as pd
import pytest
import torch
from bare import trace

from locate.engine.sweep import measure
from locate.errors import LocateError
from locate.prompts import Pair, Prompts, occupation_pairs
from locate.sites import Patch, Site
from locate.tracing import load_trace, stage
from locate.tracing.corrupt import Noise, Swap
from locate.tracing.plan import Map

FEW = occupation_pairs("anti", templates_each=1, occupations=["nurse", "engineer", "lawyer", "baker"])
SMALL = Map(components=("attn_out", "mlp_out"), layers=(0, 2), roles=("subject_last", "last"))


def test_one_row_for_every_pair_patch_and_direction(gpt2):
    table = trace(gpt2, FEW, SMALL).table
    assert len(table) == 4 * 2 * 2 * 2 * 2
    keys = ["pair", "direction", "component", "layer", "clean_pos"]
    assert not table.duplicated(keys).any()
    assert set(table["role"]) == {"subject_last", "last"}
    nurse = table[table["group"] == "nurse"]
    assert set(nurse.loc[nurse["role"] == "last", "token"]) == {"Ġthat"}
    assert nurse["stereotype"].eq(1).all()
    logs = table.filter(regex="(female|male)$")
    assert np.isfinite(logs).all(axis=None)
    assert (logs <= 0).all(axis=None)


def test_every_token_and_layer_is_patched_by_default(gpt2):
    table = trace(gpt2, Prompts(FEW.pairs[:1])).table
    length = len(gpt2.encode(FEW.pairs[0].clean)[0])
    aligned = table["clean_pos"].nunique()
    multi = len(gpt2.encode(FEW.pairs[0].clean)[0]) != len(gpt2.encode(FEW.pairs[0].corrupted)[0])
    assert aligned == length if not multi else aligned < length
    assert len(table) == 2 * 3 * gpt2.n_layers * aligned
    assert set(table["component"]) == {"resid_pre", "attn_out", "mlp_out"}


def test_a_neutral_answer_of_two_tokens_leaves_its_column_empty(gpt2):
    pair = FEW.pairs[0]
    split = Pair(**{**pair.__dict__, "neutral": " librarian"})
    table = trace(gpt2, Prompts((split, FEW.pairs[1])), SMALL).table
    empty = table["pair"] == 0
    for run in ("base", "source", "patched"):
        assert table.loc[empty, f"{run}_neutral"].isna().all()
        assert table.loc[~empty, f"{run}_neutral"].notna().all()
        assert table[f"{run}_female"].notna().all()


def test_meta_says_where_the_numbers_come_from(gpt2):
    meta = trace(gpt2, FEW, SMALL).meta
    assert meta["status"] == "complete"
    assert meta["model"]["weights_sha256"] == gpt2.checkpoint.weights_sha256
    assert meta["prompts"] == {"pairs": 4, "sha256": FEW.hash, "answers": [" she", " he", " they"]}
    assert meta["ledger"]["kept"] + meta["ledger"]["dropped"] == 4
    assert meta["ledger"]["skipped"] == len(FEW.skipped)
    assert {"torch", "transformers", "transformer-lens", "python"} <= set(meta["libraries"])
    assert meta["modules"]["mlp_out"] == "transformer.h.{}.mlp.c_proj"


def test_noise_is_in_units_of_the_subjects_embeddings(gpt2):
    from locate.prompts import tokenise

    pairs = tokenise(FEW, gpt2.encode)[0]
    embedding = gpt2.bridge.original_model.get_input_embeddings().weight
    ids = [
        token
        for pair in pairs
        for token, role in zip(pair.clean, pair.clean_roles, strict=True)
        if role.startswith("subject")
    ]
    sigma = float(embedding.detach()[ids].double().std())
    assert Noise(sigmas=2.5).scale(gpt2, pairs) == pytest.approx(2.5 * sigma, rel=1e-5)
    assert Swap().scale(gpt2, pairs) == 0


def saved(folder) -> tuple[pd.DataFrame, dict]:
    found = load_trace(folder)
    return found.table, found.meta


def test_a_run_folder_reads_back_equal(gpt2, tmp_path):
    made = trace(gpt2, FEW, SMALL, output=tmp_path / "run")
    table, meta = saved(tmp_path / "run")
    pd.testing.assert_frame_equal(made.table, table)
    assert made.meta == meta
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["meta.json", "trace.parquet"]


class Stop(KeyboardInterrupt):
    """Ctrl-C in a test."""


@pytest.mark.parametrize("blow", [Stop(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_run_keeps_what_was_measured_and_resumes(gpt2, tmp_path, monkeypatch, blow):
    monkeypatch.setattr(stage, "CHUNK_PAIRS", 1)
    whole = trace(gpt2, FEW, SMALL)
    calls = []

    def counted(*args, **options):
        calls.append(1)
        if len(calls) == 4:  # the identities, two chunks
            raise blow
        return measure(*args, **options)

    monkeypatch.setitem(stage.ENGINES, "sweep", counted)
    with pytest.raises(type(blow)):
        trace(gpt2, FEW, SMALL, output=tmp_path)
    with pytest.raises(LocateError, match="is unfinished"):
        load_trace(tmp_path)
    resumed = trace(gpt2, FEW, SMALL, output=tmp_path)
    assert len(calls) == 4 + 3
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    assert trace(gpt2, FEW, SMALL, output=tmp_path).meta == resumed.meta
    assert len(calls) == 7


def test_a_full_disk_leaves_no_half_written_part(gpt2, tmp_path, monkeypatch):
    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(LocateError, match=r"No space left on device: free some space"):
        trace(gpt2, FEW, SMALL, output=tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run" / "parts").rglob("*.parquet"))
    assert len(trace(gpt2, FEW, SMALL, output=tmp_path / "run")) == 64


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"prompts": Prompts(FEW.pairs[:2])}, "prompts_sha256"),
        ({"map": Map(layers=(1,))}, "patches_sha256"),
        ({"directions": ("noising",)}, "directions"),
        ({"corruption": Noise(samples=2)}, "corruption"),
        ({"engine": "plain"}, "engine"),
    ],
)
def test_another_run_in_the_folder_is_refused_with_both_values(gpt2, tmp_path, change, key):
    trace(gpt2, FEW, SMALL, output=tmp_path)
    before = (tmp_path / "trace.parquet").read_bytes()
    arguments = {"prompts": FEW, "map": SMALL} | change
    with pytest.raises(
        LocateError, match=f"holds another run: its {key} is .* this one's is .*: choose another folder"
    ):
        trace(gpt2, output=tmp_path, **arguments)
    assert (tmp_path / "trace.parquet").read_bytes() == before


def test_another_models_run_is_refused(gpt2, model_of, tmp_path):
    trace(gpt2, FEW, SMALL, output=tmp_path)
    with pytest.raises(LocateError, match="holds another run"):
        trace(model_of("llama"), FEW, SMALL, output=tmp_path)


def test_the_same_weights_under_another_config_are_another_run(gpt2, folder_of, tmp_path):
    """What config.json says (here the norm's epsilon) changes the numbers, so it must not be resumed over."""
    import shutil

    from locate.model.loading import load

    other = shutil.copytree(folder_of("gpt2"), tmp_path / "model")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 0.5}))
    trace(gpt2, FEW, SMALL, output=tmp_path / "run")
    with pytest.raises(LocateError, match="its config_sha256 is"):
        trace(load(str(other), device="cpu", bos="yes"), FEW, SMALL, output=tmp_path / "run")


def test_other_weights_under_the_same_config_are_another_run(gpt2, folder_of, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    from locate.model.loading import load

    other = shutil.copytree(folder_of("gpt2"), tmp_path / "model") / "model.safetensors"
    weights = load_file(other)
    weights["transformer.h.0.mlp.c_proj.bias"] += 0.1
    save_file(weights, other, metadata={"format": "pt"})
    trace(gpt2, FEW, SMALL, output=tmp_path / "run")
    with pytest.raises(LocateError, match="its weights_sha256 is"):
        trace(load(str(other.parent), device="cpu", bos="yes"), FEW, SMALL, output=tmp_path / "run")


def test_noise_has_its_own_ledger(gpt2):
    """Under noise only the clean prompt is run: every token has a counterpart, itself."""
    found = trace(gpt2, FEW, SMALL, corruption=Noise(samples=1))
    assert found.meta["ledger"]["tokens without counterpart"] == {}
    assert (found.table["clean"].astype(str) == found.table["corrupted"].astype(str)).all()


def test_windows_and_severed_paths_write_what_they_say():
    def written(patch):
        return [(write.site.component, write.site.layer, write.origin) for write in patch.writes]

    over = Patch.over(Site("mlp_out", 5, "last"), 4, 12)
    assert written(over) == [("mlp_out", layer, "source") for layer in (3, 4, 5, 6)]
    assert written(Patch.over(Site("mlp_out", 0, "last"), 10, 3)) == [("mlp_out", i, "source") for i in (0, 1, 2)]
    cut = Patch.cut(Site("resid_pre", 1, "last"), "attn_out", 4)
    assert written(cut) == [("resid_pre", 1, "source"), *(("attn_out", layer, "base") for layer in (1, 2, 3))]


def test_a_folder_with_other_things_is_refused(gpt2, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(LocateError, match="is not empty and holds no run"):
        trace(gpt2, FEW, SMALL, output=tmp_path)
    with pytest.raises(LocateError, match="is a file"):
        trace(gpt2, FEW, SMALL, output=tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"directions": ("sideways",)}, "direction 'sideways': expected one of denoising, noising"),
        ({"directions": ()}, "expected denoising, noising or both"),
        ({"batch_size": 0}, "batch size 0"),
        ({"map": Map(layers=(7,))}, "layer 7: expected 0 to 2"),
        ({"map": SMALL, "patches": [Patch.at(Site("mlp_out", 0, "last"))]}, "both a map and patches"),
        ({"patches": [Patch.at(Site("mlp_out", 0, "last"))] * 2}, "two patches have the anchor"),
        ({"patches": [Patch.at(Site("mlp_out", 9, "last"))]}, "expected a layer below 3"),
        ({"patches": [Patch.at(Site("head", 0, "last", 9))]}, "expected a layer below 3 and a unit below 4"),
        (
            {"patches": [Patch.at(Site("mlp_out", 0, "last"), torch.zeros(1))]},
            r"vector of shape \(1,\) .* expected \(32,\)",
        ),
        ({"patches": [Patch.at(Site("mlp_out", 0, p)) for p in ("last", 60)]}, "1 patches have no token"),
        ({"patches": [Patch.at(Site("mlp_out", 0, 40))]}, "no patch has a token to be written at"),
        ({"prompts": Prompts(())}, "0 of 0 pairs cannot be used"),
    ],
)
def test_bad_arguments(gpt2, arguments, match):
    with pytest.raises(LocateError, match=match):
        trace(gpt2, **({"prompts": FEW} | arguments))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Site("mlp", 0, "last"), "component 'mlp': expected one of"),
        (lambda: Site("head", 0, "last", -1), "unit -1 of head: expected indices from 0 up"),
        (lambda: Site("mlp_out", -1, "last"), "layer -1, unit None of mlp_out"),
        (lambda: Site("mlp_out", 0, "end"), "position 'end': expected one of"),
        (lambda: Site("head", 0, "last"), "unit None of component 'head'"),
        (lambda: Site("mlp_out", 0, "last", 3), "unit 3 of component 'mlp_out'"),
        (lambda: Patch.at(Site("mlp_out", 0, "last"), "clean"), "origin 'clean': expected one of"),
        (lambda: Patch.over(Site("mlp_out", 0, "last"), 0, 3), "window 0"),
        (lambda: Patch.cut(Site("resid_pre", 0, "last"), "head", 3), "severed component 'head'"),
        (
            lambda: Map(components=("mlp_out",), severed=("attn_out",), windows=(3,)),
            "severed .* add window 1, since only single",
        ),
        (lambda: Map(severed=("attention",)), "severed component 'attention': expected one of attn_out, mlp_out, both"),
        (lambda: Map(components=()), "expected some"),
        (lambda: Map(roles=("middle",)), "role 'middle'"),
        (lambda: Noise(sigmas=0), "noise of 0 sigmas"),
    ],
)
def test_bad_patches(make, match):
    with pytest.raises(LocateError, match=match):
        make()


def test_progress_counts_up_to_the_plan(gpt2):
    seen = []
    trace(gpt2, FEW, SMALL, progress=seen.append, batch_size=8)
    assert {each.stage for each in seen} == {"map"}
    assert (seen[-1].done, seen[-1].planned) == (64, 64)
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert len(seen) > 4


def test_meta_json_is_strict_json(gpt2, tmp_path):
    trace(gpt2, FEW, SMALL, output=tmp_path)

    def no(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "meta.json").read_text(), parse_constant=no)
