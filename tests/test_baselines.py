"""Baseline editors: each cuts the log-odds and changes what it names alone; what they are made of, by hand."""

import json
from importlib.resources import files

import pandas as pd
import pytest
import torch
from handmade import META, map_trace

from locate.editors.control import random_layers, shuffle_edit
from locate.editors.dama import DAMA, pls_directions, project_off, whiten_keys
from locate.editors.edit import Edit, ParameterChange, apply_change
from locate.editors.erase import Erase, fit_eraser
from locate.editors.erase import project_erasing as erased
from locate.editors.exports import head_name, hparams, importances, is_parallel, last_norm, save_hparams
from locate.editors.finetune import FineTune, parameter_change
from locate.editors.memit import MEMIT
from locate.editors.readings import answer_log_probs, at_subject, readings
from locate.editors.stamp import empty_stamp
from locate.editors.values import Values
from locate.errors import LocateError
from locate.mediation.analysis import rank
from locate.model.causal import load_causal
from locate.model.matrices import Matrix
from locate.prompts import Prompts, definitional_pairs, occupation_pairs
from locate.tracing.table import Trace, tidy

JOBS = (
    "nurse", "engineer", "librarian", "plumber", "secretary", "mechanic", "receptionist", "lawyer", "hairdresser",
    "farmer", "carpenter", "maid",
)  # fmt: skip
PREFIX = "transformer.h.{}.mlp.c_proj"
TEMPLATES = ("The {subject} said that", "The {subject} laughed because")


def located_in(model, layers=(0, 2), modules=META["modules"], total=6):
    """A located.json of this model by a planted trace in which the MLPs of these layers matter."""

    def effect(component, layer, role, group):
        strong = component == "mlp_out" and layer in layers and role == "subject_last"
        return (2.0 - 0.1 * layers.index(layer)) * (1 + group / 100) if strong else 0.0

    trace = map_trace(effect, components=("mlp_out",), layers=max(layers) + 1)
    about = META["model"] | model.provenance() | {"n_layers": total, "n_heads": 4, "d_model": 256}
    return rank(Trace(trace.table, trace.meta | {"model": about, "modules": dict(modules)}), samples=200)


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini", device="cpu")


@pytest.fixture(scope="module")
def located(mini):
    return located_in(mini)


@pytest.fixture(scope="module")
def prompts():
    known = set(occupation_pairs("anti", templates_each=1).frame()["group"])
    return occupation_pairs("anti", templates=TEMPLATES, occupations=[job for job in JOBS if job in known])


@pytest.fixture(scope="module")
def words():
    return definitional_pairs(templates=TEMPLATES[:1])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A short text to be preserved, so that its covariance is quick."""
    whole = files("locate").joinpath("evaluation", "text", "preserve.txt").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("text") / "short.txt"
    path.write_text(whole[:14000], encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def odds(model, prompts):
    said = answer_log_probs(model, readings(model, prompts.pairs))
    return said[:, 0] - said[:, 1]


def cut(model, edit, prompts):
    """Share of the mean |log-odds| that an edit takes away."""
    before = odds(model, prompts).abs().mean()
    with edit.applied(model):
        after = odds(model, prompts).abs().mean()
    return float(1 - after / before)


def weights_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.network.named_parameters()}


def test_memit_cuts_the_log_odds_by_the_located_matrices_alone(mini, located, prompts, words, text):
    edit = MEMIT(ridge=1000.0, prefixes=0, steps=10, text=text).edit(mini, located, prompts, preserved=words)
    assert cut(mini, edit, prompts) > 0.15
    assert edit.method == "memit"
    assert set(edit.changes) == {f"{PREFIX.format(layer)}.weight" for layer in (0, 2)}
    assert edit.edited["preserved"] == []
    assert set(edit.edited["words"]) == {pair.group for pair in prompts}


def test_memit_holds_nothing_but_the_text_in_place(mini):
    made = MEMIT(ridge=7.0).machinery()
    assert (made.ridge, made.preserve, made.spread, made.rounds) == (7.0, 0.0, "top", 1)
    assert (made.values.solver, made.values.kl, made.values.decay, made.values.clamp) == ("adam", 0.0625, 0.5, 0.75)


def test_dama_takes_directions_out_of_the_located_matrices(mini, located, words, tmp_path):
    """On mini it takes more words and text than the others do to cut anything: with twelve it adds instead."""
    whole = files("locate").joinpath("evaluation", "text", "preserve.txt").read_text(encoding="utf-8")
    (tmp_path / "text.txt").write_text(whole[:60000], encoding="utf-8")
    prompts = occupation_pairs("anti", templates=TEMPLATES[:1]).first(48)
    how = Values("adam", steps=5)
    settings = DAMA(dims=2, ridge=3000.0, centred=False, most=1, values=how, text=tmp_path / "text.txt")
    edit = settings.edit(mini, located, prompts, preserved=words)
    assert cut(mini, edit, prompts) > 0.1
    (name,) = edit.changes
    assert name == f"{PREFIX.format(0)}.weight"
    before = mini.network.get_parameter(name).double()
    with edit.applied(mini):
        after = mini.network.get_parameter(name).double()
    sizes = torch.linalg.svdvals(before - after)
    assert int((sizes > 1e-4 * sizes[0]).sum()) == 2
    basis = torch.linalg.svd(before - after).Vh[:2]
    assert (after @ basis.T).abs().max() < 1e-5
    assert (before @ basis.T).abs().max() > 0.1


def test_a_projection_is_idempotent_and_leaves_nothing_along_its_basis():
    layer = Matrix("a", torch.nn.Linear(3, 4, bias=False), transposed=False)
    basis = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    once = layer.weight + project_off(layer, basis).whole
    assert torch.allclose(basis.T @ once, torch.zeros(2, 3, dtype=torch.float64), atol=1e-12)
    complement = torch.eye(4, dtype=torch.float64) - basis @ basis.T
    assert torch.allclose(complement @ once, once, atol=1e-12)
    assert torch.allclose(complement @ layer.weight, once, atol=1e-12)


def test_partial_least_squares_on_paper():
    """Only the first coordinate of what is heard goes with what is wanted, though the second is larger."""
    heard = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 9.0], [0.0, -9.0]], dtype=torch.float64)
    wanted = torch.tensor([[3.0], [-3.0], [0.0], [0.0]], dtype=torch.float64)
    assert pls_directions(heard, wanted, 1, True).abs().flatten().tolist() == pytest.approx([1.0, 0.0], abs=1e-12)


def test_without_centring_what_all_words_have_is_found():
    heard = torch.tensor([[1.0, 5.0], [-1.0, 5.0], [0.0, 5.0]], dtype=torch.float64)
    wanted = torch.tensor([[7.1], [6.9], [7.0]], dtype=torch.float64)
    found = [pls_directions(heard, wanted, 1, centred).abs().flatten() for centred in (True, False)]
    assert found[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-12)
    assert found[1][1] > 0.999


def test_directions_are_orthonormal_and_those_of_scikit_learn():
    stream = torch.Generator().manual_seed(0)
    heard, wanted = (torch.randn(9, size, generator=stream, dtype=torch.float64) + 1 for size in (6, 20))
    found = pls_directions(heard, wanted, 4, True)
    assert torch.allclose(found.T @ found, torch.eye(4, dtype=torch.float64), atol=1e-12)
    decomposition = pytest.importorskip("sklearn.cross_decomposition")
    peer = decomposition.PLSRegression(4, scale=False, tol=1e-14, max_iter=10000).fit(heard.numpy(), wanted.numpy())
    assert torch.allclose(found.abs(), torch.from_numpy(peer.x_weights_.copy()).abs(), atol=1e-5)


def test_whitened_keys_on_paper():
    """Keys e1 and 2 e2 with lambda C = I: e1 / (1 + 1) and 2 e2 / (4 + 1)."""
    keys = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert torch.allclose(
        whiten_keys(keys, torch.eye(2, dtype=torch.float64)), torch.diag(torch.tensor([0.5, 0.4])).double()
    )
    assert torch.allclose(whiten_keys(keys[:1], torch.zeros(2, 2, dtype=torch.float64)), keys[:1])


@pytest.mark.parametrize("scope", ["located", "everything"])
def test_fine_tuning_cuts_the_log_odds_and_leaves_the_model(mini, located, prompts, words, text, scope):
    before = weights_of(mini)
    settings = FineTune(scope, epochs=2, rate=1e-3 if scope == "located" else 3e-4, text=text)
    edit = settings.edit(mini, located, prompts, preserved=words)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(mini).items())
    assert not any(tensor.requires_grad for tensor in mini.network.parameters())
    assert cut(mini, edit, prompts) > 0.3
    expected = {f"{PREFIX.format(layer)}.weight" for layer in (0, 2)} if scope == "located" else set(before)
    assert set(edit.changes) == expected
    assert edit.method == f"finetune-{scope}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_difference_makes_the_trained_parameter_bit_for_bit(dtype):
    stream = torch.Generator().manual_seed(0)
    before = torch.randn(2000, generator=stream).to(dtype)
    trained = before.float() * torch.rand(2000, generator=stream) + 1e-4 * torch.randn(2000, generator=stream)
    trained[:100] = 0
    found = parameter_change("w", before, trained)
    assert torch.equal(apply_change(before, found), trained.to(dtype))
    assert parameter_change("w", before, before.float()) is None
    with pytest.raises(LocateError, match="parameter w is no longer finite"):
        parameter_change("w", before, trained / 0)


def test_erasure_makes_the_genders_means_equal_and_keeps_the_mean(mini, located, prompts, words):
    edit = Erase(most=1).edit(mini, located, prompts, preserved=words)
    assert cut(mini, edit, prompts) > 0.1
    assert set(edit.changes) == {f"{PREFIX.format(0)}.weight", f"{PREFIX.format(0)}.bias"}
    assert sorted(edit.edited["words"]) == sorted({pair.group for pair in words})
    rows = readings(mini, words.pairs)
    female = torch.tensor([pair.stereotype > 0 for pair in words])
    before = at_subject(mini, rows, PREFIX.format(0), inputs=False)
    with edit.applied(mini):
        after = at_subject(mini, rows, PREFIX.format(0), inputs=False)
    gaps = [(state[female].mean(0) - state[~female].mean(0)).norm() for state in (before, after)]
    assert gaps[0] > 10
    assert gaps[1] < 1e-3
    assert torch.allclose(before.mean(0), after.mean(0), atol=1e-4)


def test_an_erasure_folded_into_weights_is_the_erasure_of_outputs():
    stream = torch.Generator().manual_seed(0)
    outputs = torch.randn(30, 4, generator=stream, dtype=torch.float64)
    labels = (torch.arange(30) % 2).double()
    left, right, mean = fit_eraser(outputs + 3 * labels[:, None], labels)
    layer = torch.nn.Linear(3, 4).double()
    changes = erased(Matrix("a", layer, transposed=False), left, right, mean)
    fed = torch.randn(5, 3, generator=stream, dtype=torch.float64)
    said = layer(fed)
    wanted = said - (said - mean) @ right.T @ left.T
    weight, bias = layer.weight + changes["a.weight"].whole, layer.bias + changes["a.bias"].whole
    assert torch.allclose(fed @ weight.T + bias, wanted)
    plain = Matrix("a", torch.nn.Linear(3, 4, bias=False), transposed=False)
    assert set(erased(plain, left, right, mean)) == {"a.weight"}


def test_random_layers_are_none_of_the_located_or_excluded(located):
    assert set(located.layers) == {0, 2}
    drawn = {random_layers(located, 2, seed=seed, exclude=[5]) for seed in range(30)}
    assert drawn == {(1, 3), (1, 4), (3, 4)}
    assert random_layers(located, 4) == (1, 3, 4, 5)
    with pytest.raises(LocateError, match="5 random layers: 4 of 6 are neither located nor excluded"):
        random_layers(located, 5)


def test_a_shuffled_edit_has_the_size_of_the_edit_in_other_directions():
    stream = torch.Generator().manual_seed(1)
    drawn = {shape: torch.randn(shape, generator=stream) for shape in ((12, 2), (2, 9), (7, 5), (11,))}
    changes = {
        "thin": ParameterChange((drawn[12, 2], drawn[2, 9])),
        "whole": ParameterChange((drawn[7, 5],)),
        "bias": ParameterChange((drawn[(11,)],)),
    }
    edit = Edit("lsdm", {}, changes)
    twin, other = shuffle_edit(edit), shuffle_edit(edit, seed=1)
    assert twin.method == "lsdm-random"
    for name, change in changes.items():
        now = twin.changes[name]
        assert (now.whole.shape, now.rank) == (change.whole.shape, change.rank)
        assert float(now.whole.norm()) == pytest.approx(float(change.whole.norm()))
        assert abs(float((now.whole * change.whole).sum())) < 0.7 * float(change.whole.norm() ** 2)
        assert not torch.allclose(now.whole, other.changes[name].whole)
    for name in ("thin", "whole"):
        sizes = [torch.linalg.svdvals(each.changes[name].whole) for each in (edit, twin)]
        assert torch.allclose(*sizes, atol=1e-12)


def test_an_edit_with_a_stamp_has_no_random_twin(mini):
    edit = Edit("fast", {}, {}, stamps=(empty_stamp(mini.network, PREFIX, 0, 2, 0),))
    with pytest.raises(LocateError, match="an edit by 'fast' has stamps"):
        shuffle_edit(edit)


def test_hyper_parameters_name_the_models_own_modules(mini, located, tmp_path):
    found = hparams(located, mini)
    assert {name: found[name] for name in found if "modul" in name} == {
        "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
        "layer_module_tmp": "transformer.h.{}",
        "mlp_module_tmp": "transformer.h.{}.mlp",
        "attn_module_tmp": "transformer.h.{}.attn",
        "ln_f_module": "transformer.ln_f",
        "lm_head_module": "transformer.wte",
    }
    assert (found["layers"], found["fact_token"], found["v_loss_layer"]) == ([0, 2], "subject_last", 5)
    assert (found["clamp_norm_factor"], found["v_num_grad_steps"], found["mom2_update_weight"]) == (0.75, 25, 15000)
    assert json.loads(save_hparams(found, tmp_path / "mini.json").read_text()) == found
    rome = hparams(located, mini, "ROME")
    assert (rome["layers"], rome["clamp_norm_factor"], rome["v_num_grad_steps"]) == ([0], 4, 20)
    yaml = pytest.importorskip("yaml")
    path = save_hparams(rome, tmp_path / "mini.yaml", "ROME", model="./mini")
    assert yaml.safe_load(path.read_text()) == rome | {
        "alg_name": "ROME", "model_name": "./mini", "stats_dir": "./data/stats", "device": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("family", "head", "norm", "beside"),
    [
        ("gpt_neox", "lm_head", "gpt_neox.final_layer_norm", True),
        ("llama", "lm_head", "model.norm", False),
        ("opt", "model.decoder.embed_tokens", "model.decoder.final_layer_norm", False),
    ],
)
def test_names_are_found_in_other_families(folder_of, model_of, family, head, norm, beside):
    model, traced = load_causal(str(folder_of(family)), device="cpu"), model_of(family)
    assert (head_name(model), last_norm(model)) == (head, norm)
    assert is_parallel(model, traced.module_templates()) is beside


def test_importances_are_effects_by_mibs_names(mini):
    """An effect of s at the subject and s / 2 at the last token is 1.5 s over the roles, in either direction."""

    def nodes(**options):
        return importances(graph_trace(mini), mini, **options)

    both = nodes()
    assert both["cfg"] == {"n_layers": 2, "n_heads": 2, "d_model": 256, "parallel_attn_mlp": False}
    assert both["edges"] == {}
    assert list(both["nodes"]) == ["input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits"]
    assert all(node["in_graph"] for node in both["nodes"].values())
    mean = 1 + 0.02 * 5.5  # over twelve groups
    assert both["nodes"]["m0"]["score"] == pytest.approx(1.5 * 2.0 * mean)
    assert both["nodes"]["m1"]["score"] == pytest.approx(1.5 * 1.0 * mean)
    assert both["nodes"]["a1.h1"]["score"] == pytest.approx(1.5 * 0.25 * mean)
    assert both["nodes"]["input"]["score"] == pytest.approx(1.5 * 3.0 * mean)
    assert nodes(direction="noising")["nodes"]["m1"]["score"] == pytest.approx(1.5 * mean)
    last = nodes(role="last")
    assert last["nodes"]["m0"]["score"] == pytest.approx(0.5 * 2.0 * mean)
    assert (both["about"]["role"], last["about"]["role"]) == ("sum over all roles", "last")


def graph_trace(model, units=(0, 1)):
    """Every node of a model of two layers and two heads, as MIB's graph has them."""
    parts = [map_trace(components=("mlp_out", "resid_pre"), layers=2)]
    parts += [map_trace(components=("head",), layers=2, unit=unit) for unit in units]
    about = META["model"] | model.provenance() | {"n_layers": 2, "n_heads": 2, "d_model": 256}
    table = pd.concat([part.table for part in parts], ignore_index=True)
    return Trace(tidy(table), META | {"model": about})


def test_importances_refuse_what_was_not_measured(mini):
    with pytest.raises(LocateError, match=r"2 of 6 nodes were not traced .*a0.h1, a1.h1"):
        importances(graph_trace(mini, units=(0,)), mini)
    trace = graph_trace(mini)
    trace.meta["model"]["weights_sha256"] = "0" * 64
    with pytest.raises(LocateError, match="'mini' has other weights"):
        importances(trace, mini)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DAMA(dims=0), "dims 0, most 3"),
        (lambda: DAMA(values=Values()), "solver 'newton': DAMA's values"),
        (lambda: pls_directions(torch.zeros(3, 5).double(), torch.zeros(3, 2).double(), 3, True), "expected at most 2"),
        (lambda: Erase(most=0), "most 0: expected at least one layer"),
        (lambda: FineTune("all"), "scope 'all': expected one of located, everything"),
        (lambda: FineTune(rate=0), "rate 0"),
        (lambda: FineTune("everything", layers=(1,)), r"layers \[1\] with scope 'everything'"),
        (lambda: MEMIT(ridge=-1.0).machinery(), "ridge -1.0"),
        (lambda: save_hparams({}, "a.txt"), r"a.txt, model '': expected a .json file"),
        (lambda: save_hparams({}, "a.yaml"), r"a.yaml, model ''"),
        (lambda: save_hparams({}, "a.json", "FT"), "method 'FT': expected one of MEMIT, ROME"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(LocateError, match=message):
        make()


def test_edits_refuse_too_few_words_and_other_models(mini, located, prompts, words, gpt2):
    few = Prompts(words.pairs[:3])
    with pytest.raises(LocateError, match="expected at least 4 of each"):
        Erase().edit(mini, located, prompts, preserved=few)
    other = load_causal(gpt2.name, device="cpu")
    with pytest.raises(LocateError, match="weights_sha256"):
        Erase().edit(other, located, prompts, preserved=words)
    with pytest.raises(LocateError, match="weights_sha256"):
        hparams(located, other)
