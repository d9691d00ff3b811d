"""LoRA adapters: what PEFT merges, in any extent; what is refused; and merges as adapters."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as tf
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import evomerge
from evomerge import api, errors, modules, saving
from evomerge.files import adapter as adapters
from evomerge.files.adapter import Adapted, Adapter
from evomerge.files.checkpoint import Checkpoint
from evomerge.inputs import Opened
from evomerge.interop import export, plans
from evomerge.lowrank import save_adapter
from evomerge.materialize import Merged, Workshop
from evomerge.recipe import resolve
from tests import families
from tests.architectures import BERT, SIGHT

GOLDEN = Path(__file__).with_name("peft.safetensors")
CASES = ("plain", "rslora", "patterns", "words", "conv1d", "bias", "lora_bias")
LORA = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}


def recorded(case: str, part: str) -> dict[str, torch.Tensor]:
    """What PEFT had (`base`, `adapter`) and made of it (`merged`); see record_peft.py."""
    start = f"{case}/{part}/"
    with safe_open(GOLDEN, "pt") as file:
        names = [name for name in file.keys() if name.startswith(start)]  # noqa: SIM118
        return {name.removeprefix(start): file.get_tensor(name) for name in names}


def card(adapter: str) -> str:
    return adapter


def save(place: Path, tensors, config) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / adapters.CONFIG).write_text(json.dumps(config))
    save_file(tensors, place / adapters.WEIGHTS)
    return place


def model(place: Path, tensors, **config) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps({"tie_word_embeddings": False, **config}))
    save_file(tensors, place / "model.safetensors")
    return place


@pytest.fixture
def case(request, tmp_path):
    """A recorded base and adapter as they are read here, and what PEFT merged."""
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()[request.param])
    tied = ["conv1d", "bias", "lora_bias"]
    base = recorded(request.param, "base")
    base = model(tmp_path / "base", base, tie_word_embeddings=request.param in tied)
    place = save(tmp_path / "adapter", recorded(request.param, "adapter"), config)
    return Adapted(Checkpoint.open(base), Adapter.open(place)), recorded(request.param, "merged")


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_it_is_what_peft_merges(case):
    adapted, merged = case
    assert set(adapted.tensors) == set(merged)
    changed = [n for n in merged if not torch.equal(adapted.base.read(n), merged[n])]
    assert {*adapted.updates()} <= {*changed} and adapted.remark is None
    for name, tensor in merged.items():
        assert adapted.tensors[name].shape == tensor.shape
        torch.testing.assert_close(adapted.read(name), tensor, rtol=0, atol=2e-7)


@pytest.mark.parametrize("case", ["patterns", "words", "conv1d"], indirect=True)
@pytest.mark.parametrize("size", [1, 7, 31, 10**6])
def test_any_extent_has_the_same_bits(case, size, monkeypatch):
    monkeypatch.setattr(adapters, "BLOCK", 40)  # several blocks in these small matrices
    adapted, _ = case
    for name, info in adapted.tensors.items():
        whole = adapted.read(name).view(-1)
        starts = range(0, info.numel, size)
        parts = [adapted.read_flat(name, i, min(i + size, info.numel)) for i in starts]
        assert torch.equal(torch.cat(parts), whole)


def pair(**factors):
    start = "base_model.model.m.w.lora_"
    return {f"{start}{part}.weight": tensor for part, tensor in factors.items()}


GOOD = pair(A=torch.ones(2, 5), B=torch.ones(3, 2))


@pytest.mark.parametrize(
    ("tensors", "config", "says"),
    [
        (GOOD, {"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        (GOOD, {"use_dora": True}, "use_dora is True"),
        (GOOD, {"init_lora_weights": "pissa_niter_4"}, "which changed the base"),
        (GOOD, {"r": 0}, "r: expected a whole number above 0"),
        (GOOD, {"r": 2.5}, "r: expected a whole number above 0, got 2.5"),
        (GOOD, {"alpha_pattern": {"m.(w": 2}}, "alpha_pattern: {'m.(w': 2} is not usable"),
        ({}, {}, "adapter_model.safetensors: has no tensors"),
        (GOOD, {"lora_alpha": None}, "lora_alpha: expected a number above 0, got None"),
        (GOOD, {"r": 3}, "rank mismatch: A is (2, 5), B is (3, 2), adapter_config.json says r"),
        (pair(A=torch.ones(2, 5), B=torch.ones(3, 1)), {}, "rank mismatch"),
        (pair(A=torch.ones(2, 4), B=torch.ones(3, 2)), {}, "adapter's is (3, 4), the base's (3,"),
        (pair(A=torch.ones(2, 5)), {}, "has A, expected A and B"),
        (
            {"base_model.model.m.w.lora_A.bias": torch.ones(3)},
            {},
            "'m.w.bias': the adapter has A, expected B",
        ),
        ({"m.w.lora_A.weight": torch.ones(2, 5)}, {}, "not PEFT's layout"),
        ({"base_model.model.m.v.weight": torch.ones(2)}, {}, "Did you mean 'm.w.weight'?"),
        (
            {"base_model.model.m.w.lora_magnitude_vector": torch.ones(3)},
            {},
            "neither factor of LoRA",
        ),
    ],
)
def test_what_can_not_be_added_is_refused(tmp_path, tensors, config, says):
    stored = {"m.w.weight": torch.zeros(3, 5), "m.w.bias": torch.zeros(3)}
    base = Checkpoint.open(model(tmp_path / "base", stored))
    place = save(tmp_path / "adapter", tensors, {**LORA, **config})
    with pytest.raises(errors.InputError) as caught:
        Adapted(base, Adapter.open(place))
    assert says in str(caught.value)


def lora(folder: Path, seed: int, rank: int = 3) -> dict[str, torch.Tensor]:
    """Random factors for the attention and MLP of the family's models."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, info in Checkpoint.open(folder).tensors.items():
        if "proj" in name:
            path = f"base_model.model.{name.removesuffix('.weight')}"
            for part, shape in (("A", (rank, info.shape[1])), ("B", (info.shape[0], rank))):
                draw = torch.randn(shape, generator=generator) * 0.2
                found[f"{path}.lora_{part}.weight"] = draw
    return found


@pytest.fixture(scope="module")
def trained(family, tmp_path_factory):
    """The family's base with two adapters in place of its experts."""
    folder = tmp_path_factory.mktemp("adapters")
    config = {**LORA, "r": 3, "base_model_name_or_path": str(family / "base")}
    for seed, name in enumerate(("left", "right")):
        save(folder / name, lora(family / "base", seed), config)
    return folder


def whole(base: Path, adapter: Path, place: Path) -> Path:
    """The merged copy that is not needed, to compare with."""
    adapted = Adapted(Checkpoint.open(base), Adapter.open(adapter))
    place.mkdir()
    (place / "config.json").write_text((base / "config.json").read_text())
    save_file(
        {n: adapted.read(n).contiguous() for n in adapted.tensors}, place / "model.safetensors"
    )
    return place


@pytest.mark.parametrize("operator", ["linear", "ties", "dare"])
def test_operators_see_a_merged_copy(family, trained, tmp_path, operator):
    names = ("left", "right")
    copies = {n: whole(family / "base", trained / n, tmp_path / n) for n in names}
    plans = [
        api.plan_of(family / "base", experts, operator)
        for experts in ({n: trained / n for n in names}, copies)
    ]
    lazy, copied = (Merged(plan, Workshop.of(plan)) for plan in plans)
    for name in lazy.tensors:
        assert torch.equal(lazy.read(name), copied.read(name))


def test_mergekit_is_told_the_base_of_an_adapter(family, trained):
    names = ("left", "right")
    experts = {name: trained / name for name in names}
    plan = api.plan_of(family / "base", experts, "task_arithmetic", weight=[0.5, 0.25])
    data = yaml.safe_load(export.to_mergekit(plan))
    models = [f"{family / 'base'}+{trained / name}" for name in names]
    assert [row["model"] for row in data["models"]] == models
    back = plans.plan_of(data, "back", family).plan
    mine, its = (Merged(one, Workshop.of(one)) for one in (plan, back))
    assert all(torch.equal(mine.read(name), its.read(name)) for name in mine.tensors)


@pytest.fixture(scope="module")
def searched(family, trained, tmp_path_factory):
    experts = {name: str(trained / name) for name in ("left", "right")}
    recipe = families.recipe(family, experts=experts, budget={"candidates": 6})
    return evomerge.search(recipe, tmp_path_factory.mktemp("runs") / "run")


def test_a_search_over_adapters_is_exported_as_one(searched, family, tmp_path):
    plan = searched.plan("expert left")
    assert plan.base.on is not None and plan.base.on.path == str(family / "base")
    folder = searched.save("expert left", tmp_path / "out", adapter=3)
    fit = json.loads((folder / adapters.FIT).read_text())
    assert fit["relative error"] < 1e-6  # it had rank 3
    mine = Merged(plan, Workshop.of(plan))
    back = Adapted(Checkpoint.open(family / "base"), Adapter.open(folder))
    for name in back.tensors:
        torch.testing.assert_close(back.read(name), mine.read(name), rtol=0, atol=1e-5)


def test_the_best_point_loses_what_the_singular_values_say(searched, tmp_path):
    plan = searched.plan("best")
    folder = searched.save("best", tmp_path / "out", adapter=1)
    base = Opened.of(plan)[plan.base.sha256]
    merged = Merged(plan, Workshop.of(plan))
    back = Adapted(base, Adapter.open(folder))
    lost = total = 0.0
    for name in merged.tensors:
        change = merged.read(name) - base.read(name)
        values = torch.linalg.svdvals(change) if change.dim() == 2 else change.new_zeros(1)
        left = float((merged.read(name) - back.read(name)).norm())
        assert left == pytest.approx(float(values[1:].norm()), abs=1e-4)
        lost, total = lost + left**2, total + float(change.norm()) ** 2
    fit = json.loads((folder / adapters.FIT).read_text())
    assert fit["relative error"] == pytest.approx((lost / total) ** 0.5, abs=1e-4)
    assert fit["relative error there"] >= fit["relative error"]
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card and "base_model_relation: adapter" in card
    assert f"rank 1; it leaves out {fit['relative error']:.1%} of what the merge" in card
    assert "The scores are those of the whole merge" in card and "| one |" in card


def test_norms_biases_and_tied_words_are_saved_whole(family, tmp_path):
    experts = {name: family / name for name in ("left", "right")}
    plan = api.plan_of(family / "base", experts, "linear")
    workshop = Workshop.of(plan)
    folder = save_adapter(plan, workshop, tmp_path / "out", 64, card=card, extra_json={})
    kept = load_file(folder / adapters.WEIGHTS)
    assert "base_model.model.model.norm.weight" in kept
    back = Adapted(workshop.checkpoints[plan.base.sha256], Adapter.open(folder))
    merged = Merged(plan, workshop)
    assert back.tied and set(back.tensors) == set(merged.tensors)
    for name in merged.tensors:
        torch.testing.assert_close(back.read(name), merged.read(name), rtol=0, atol=1e-5)


WORDS = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize("how", ["whole", "factors", "factors and rows"])
@pytest.mark.parametrize("together", [False, True])
def test_a_head_that_was_tied_to_trained_words_stays_as_it_was(family, tmp_path, how, together):
    """As in PEFT, where no more than the embedding is replaced or added to."""
    words = load_file(family / "base" / "model.safetensors")["model.embed_tokens.weight"]
    a, b = torch.randn(2, 260), torch.randn(16, 2)
    trained = words + (b @ a).T * 2
    tensors = {f"{WORDS}.lora_embedding_A": a, f"{WORDS}.lora_embedding_B": b}
    if how == "whole":
        tensors = {f"{WORDS}.weight": trained}
    if how == "factors and rows":
        tensors[f"{WORDS}.base_layer.weight"] = words
    told = {**LORA, "ensure_weight_tying": together}
    place = save(tmp_path / "adapter", tensors, told)
    plan = api.plan_of(family / "base", {"e": place}, "linear", allow_mismatch=True)
    saved = tf.LlamaForCausalLM.from_pretrained(saving.write(plan, tmp_path / "out"))
    wanted = tf.LlamaForCausalLM.from_pretrained(family / "base")
    head = torch.nn.Linear(16, 260, bias=False)
    head.weight = torch.nn.Parameter(trained if together else words)
    wanted.model.embed_tokens.weight = torch.nn.Parameter(trained)
    wanted.lm_head = head
    for model in (saved, api.build(plan)):
        got, want = (one(input_ids=torch.arange(9)[None]).logits for one in (model, wanted))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert Adapted(Checkpoint.open(family / "base"), Adapter.open(place)).tied


def test_a_model_without_a_head_gets_none_from_trained_words(family, tmp_path):
    config = tf.AutoConfig.from_pretrained(family / "base")
    tf.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "base")
    adapter = save(tmp_path / "adapter", {f"{WORDS}.weight": torch.ones(260, 16)}, LORA)
    found = api.plan_of(tmp_path / "base", {"e": adapter}, "linear", allow_mismatch=True)
    assert found.vocabulary is None


@pytest.mark.parametrize("changed", ["model.norm.weight", None])
def test_a_merge_that_changes_no_matrix_is_no_adapter(family, tmp_path, changed):
    tensors = load_file(family / "base" / "model.safetensors")
    expert = shutil.copytree(family / "base", tmp_path / "expert")
    if changed:
        tensors[changed] += 0.5
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    plan = api.plan_of(family / "base", {"e": expert}, "linear")
    with pytest.raises(errors.RecipeError, match="no matrix changes, and PEFT loads no adapter"):
        saving.write(plan, tmp_path / "out", adapter=2)
    assert not (tmp_path / "out").exists()


def test_rounding_is_no_part_of_an_adapter(family, trained, tmp_path):
    experts = {name: trained / name for name in ("left", "right")}
    weight = [0.5, 0.25]
    rough, fine = (
        api.plan_of(family / "base", experts, "task_arithmetic", weight=weight, dtype=dtype)
        for dtype in ("bfloat16", "float32")
    )
    workshop = Workshop.of(rough)
    folder = save_adapter(rough, workshop, tmp_path / "out", 6, card=card, extra_json={})
    assert json.loads((folder / adapters.FIT).read_text())["relative error"] < 1e-5
    assert all(".lora_" in name for name in load_file(folder / adapters.WEIGHTS))
    back = Adapted(workshop.checkpoints[rough.base.sha256], Adapter.open(folder))
    merged = Merged(fine, workshop)
    for name in merged.tensors:
        torch.testing.assert_close(back.read(name), merged.read(name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("of", ["whisper", "gpt2"])
def test_learned_positions_beside_tied_words_have_no_head(of, tmp_path):
    small = {"vocab_size": 24, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}
    small |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_mel_bins": 8}
    small |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_target_positions": 24}
    small |= {"max_source_positions": 24, "pad_token_id": 0, "decoder_start_token_id": 1}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    built = {
        "whisper": lambda: tf.WhisperForConditionalGeneration(tf.WhisperConfig(**small, **ends)),
        "gpt2": lambda: tf.GPT2LMHeadModel(
            tf.GPT2Config(vocab_size=24, n_embd=16, n_layer=1, n_head=2, n_positions=24, **ends)
        ),
    }[of]()
    places = [tmp_path / name for name in ("base", "one", "two")]
    for place in places:
        built.save_pretrained(place)
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    plan = api.plan_of(places[0], {"a": places[1], "b": places[2]}, "linear", dtype="float32")
    workshop = Workshop.of(plan)
    folder = save_adapter(plan, workshop, tmp_path / "out", 64, card=card, extra_json={})
    back = Adapted(workshop.checkpoints[plan.base.sha256], Adapter.open(folder))
    merged = Merged(plan, workshop)
    assert back.tied and set(back.tensors) == set(merged.tensors)
    for name in merged.tensors:
        torch.testing.assert_close(back.read(name), merged.read(name), rtol=0, atol=1e-5)


def test_an_adapter_of_another_base_is_refused(refused, family, trained, tmp_path):
    refused("evaluate", trained / "left", "-b", family / "one.jsonl", code=3, says="without its")
    recipe = families.recipe(
        family, base=str(family / "left"), experts={"a": str(trained / "left")}
    )
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    refused("plan", tmp_path / "r.yaml", code=3, says=["says that its base is", "sha256"])


def test_a_bank_is_checked_with_adapters_on_the_base(run, family, trained, tmp_path):
    merged = whole(family / "base", trained / "left", tmp_path / "merged")
    shutil.copy(family / "base" / "tokenizer.json", merged)
    shutil.copy(family / "base" / "tokenizer_config.json", merged)
    item = {"prompt": "a", "answer": " text", "split": "search"}
    bank = {"name": "b", "version": 1, "scorer": "perplexity", "items": [item]}
    (tmp_path / "b.yaml").write_text(json.dumps(bank))
    models = [f"a={trained / 'left'}", f"b={merged}"]
    experts = [text for model in models for text in ("--expert", model)]
    code, out, err = run(
        "bank", "check", tmp_path / "b.yaml", "--base", family / "base", *experts, "--json"
    )
    assert code == 0, err
    base, left, same = (row["mean"] for row in json.loads(out)["scores"])
    assert left == pytest.approx(same) and left != pytest.approx(base)


@pytest.mark.parametrize("pattern", ["w", r"m\.w", r"^m.(?:v|w)", ".*?w", r"[a-z]{1,2}\.w"])
def test_patterns_of_names_are_matched(tmp_path, pattern):
    base = Checkpoint.open(model(tmp_path / "base", {"m.w.weight": torch.zeros(3, 5)}))
    config = {**LORA, "r": 7, "rank_pattern": {pattern: 2}, "alpha_pattern": {pattern: 6}}
    adapted = Adapted(base, Adapter.open(save(tmp_path / "adapter", GOOD, config)))
    assert torch.equal(adapted.read("m.w.weight"), torch.full((3, 5), 6.0))


def test_a_pattern_that_is_never_done_is_given_up(tmp_path):
    name = "a" * 40
    base = Checkpoint.open(model(tmp_path / "base", {f"{name}.weight": torch.zeros(3, 5)}))
    factors = {key.replace("m.w", name): tensor for key, tensor in GOOD.items()}
    config = {**LORA, "rank_pattern": {"(a|a)*[^a]": 2}}
    adapter = Adapter.open(save(tmp_path / "adapter", factors, config))
    with pytest.raises(errors.InputError, match=rf"takes more than 1 s for '{name}'"):
        Adapted(base, adapter)


def test_an_adapter_that_was_never_trained_is_pointed_out(trained, family, tmp_path):
    config = json.loads((trained / "left" / adapters.CONFIG).read_text())
    factors = load_file(trained / "left" / adapters.WEIGHTS)
    zero = {name: t * 0 if "lora_B" in name else t for name, t in factors.items()}
    experts = {"left": str(trained / "left"), "new": str(save(tmp_path / "new", zero, config))}
    notes = list(resolve(families.recipe(family, experts=experts)).notes())
    assert notes == ["expert 'new' is an adapter that adds nothing: it is the base"]


def test_an_adapter_that_is_not_whole_is_pointed_out(trained, family, tmp_path):
    config = json.loads((trained / "left" / adapters.CONFIG).read_text())
    factors = load_file(trained / "left" / adapters.WEIGHTS)
    paths = {name.partition(".lora_")[0] for name in factors}
    config["target_modules"] = sorted({path.rpartition(".")[2] for path in paths})
    gone = min(paths)
    rest = {name: tensor for name, tensor in factors.items() if f"{gone}." not in name}
    for names, chosen in (("new", {}), ("by layer", {"layers_to_transform": [0]})):
        place = save(tmp_path / names, rest, {**config, **chosen})
        experts = {"left": str(trained / "left"), "new": str(place)}
        notes = list(resolve(families.recipe(family, experts=experts)).notes())
        name = f"{gone.removeprefix(adapters.PREFIX)}.weight"
        lacks = f"lacks 1 of the tensors that its adapter_config.json names, as '{name}'"
        said = [f"expert 'new' is an adapter that {lacks}: they stay those of the base"]
        assert notes == (said if not chosen else [])


def test_the_command_prints_what_an_adapter_loses(run, searched, tmp_path):
    code, out, _ = run("export", searched.folder, "-o", tmp_path / "a", "--adapter", "2")
    assert code == 0 and "relative error" in out and "worst module: model.layers." in out


MAMBA = {"vocab_size": 64, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}


def altered(kind, config, folder: Path) -> dict[str, Path]:
    """A random model as `base`, and an expert of it of which all weights differ a little."""
    model = kind(config)
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.002)
    model.save_pretrained(folder / "e")
    return {"e": folder / "e"}


@pytest.mark.parametrize(
    ("kind", "config", "whole"),
    [
        (
            tf.MambaForCausalLM,
            tf.MambaConfig(**MAMBA, tie_word_embeddings=False),
            "backbone.layers.1.mixer",
        ),
        (
            tf.CLIPForImageClassification,
            tf.CLIPConfig(vision_config=SIGHT, text_config=BERT),
            "vision_model.embeddings",
        ),
        (tf.ViTForImageClassification, tf.ViTConfig(**SIGHT), "vit.embeddings"),
    ],
)
def test_a_module_that_is_saved_whole_is_so_with_all_below_it(tmp_path, kind, config, whole):
    """PEFT wraps it, and finds nothing in it that is saved apart."""
    plan = api.plan_of(tmp_path / "base", altered(kind, config, tmp_path), "linear")
    folder = saving.write(plan, tmp_path / "out", adapter=64)
    told = json.loads((folder / adapters.CONFIG).read_text())
    saved, factored = told["modules_to_save"], told["target_modules"]
    assert whole in saved and factored
    for path in saved:
        assert not [other for other in (*saved, *factored) if other.startswith(f"{path}.")]
    state = {f"base_model.model.{name}" for name in kind(config).state_dict()}
    below = {name for name in state if name.startswith(f"base_model.model.{whole}.")}
    assert {name for name in load_file(folder / adapters.WEIGHTS) if whole in name} == below
    base = Checkpoint.open(tmp_path / "base")
    back = Adapted(base, Adapter.open(folder), lambda: modules.names(base.folder))
    merged = Merged(plan, Workshop.of(plan))
    for name in merged.tensors:
        torch.testing.assert_close(back.read(name), merged.read(name), rtol=0, atol=1e-5)


def test_what_would_be_saved_whole_is_no_adapter(tmp_path):
    experts = altered(tf.MambaForCausalLM, tf.MambaConfig(**MAMBA), tmp_path)
    plan = api.plan_of(tmp_path / "base", experts, "linear")
    with pytest.raises(errors.RecipeError, match="all matrices are saved with modules around th"):
        saving.write(plan, tmp_path / "out", adapter=2)
    experts = altered(tf.CLIPModel, tf.CLIPConfig(vision_config=SIGHT, text_config=BERT), tmp_path)
    plan = api.plan_of(tmp_path / "base", experts, "linear")
    with pytest.raises(errors.RecipeError, match="'logit_scale' is in no module"):
        saving.write(plan, tmp_path / "out", adapter=2)
