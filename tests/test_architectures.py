"""Any architecture of transformers: groups from its modules, live merges, folders that load."""

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

import evomerge
from evomerge import api, errors, inputs, modules, saving, stacks
from evomerge.files.checkpoint import Checkpoint
from evomerge.live import save
from evomerge.materialize import Workshop
from tests.architectures import CASES, GPT2, TEXT


@pytest.fixture(scope="module", params=CASES)
def models(request, tmp_path_factory):
    """(case, folder of base and two experts, the experts' tensors)."""
    kind, config, _ = CASES[request.param]
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    model = kind(config())
    for name in ("base", "one", "two"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        model.save_pretrained(folder / name)
    return request.param, folder


def experts(folder):
    return {name: folder / name for name in ("one", "two")}


def counted(groups) -> dict[str, object]:
    found: dict[str, object] = {}
    for group in groups.values():
        block, _, role = group.partition("/")
        if role:
            found.setdefault(block, {}).setdefault(role, 0)
            found[block][role] += 1
        else:
            found[block] = found.get(block, 0) + 1
    return found


def test_groups_come_from_the_modules(models):
    case, folder = models
    names = Checkpoint.open(folder / "base").tensors
    layers = stacks.layers(folder / "base", names, {"blocks": 2, "roles": ("attention", "mlp")})
    assert counted(layers.groups(names)) == CASES[case][2]
    # what a plan records is all that it takes
    assert type(layers).model_validate_json(layers.model_dump_json()).groups(names) == (
        layers.groups(names)
    )


def test_live_model_and_folder_are_the_plain_mean(models, tmp_path):
    case, folder = models
    plan = api.plan_of(folder / "base", experts(folder), "linear")
    live = api.build(plan)
    written = save(plan, Workshop.of(plan), tmp_path / "merged")
    loaded = CASES[case][0].from_pretrained(written, dtype="auto").eval()
    assert type(live) is type(loaded)
    state = loaded.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in live.state_dict().items())
    found = load_file(written / "model.safetensors")
    parts = [load_file(folder / name / "model.safetensors") for name in ("one", "two")]
    assert set(found) == set(Checkpoint.open(folder / "base").tensors)
    for name, tensor in found.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(tensor, mean, rtol=0, atol=1e-6)


def test_what_transformers_keeps_in_float32_is_what_a_half_folder_holds(tmp_path):
    kind, config, _ = CASES["t5"]
    model = kind(config())
    for name in ("base", "one", "two"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        model.save_pretrained(tmp_path / name)
    plan = api.plan_of(tmp_path / "base", experts(tmp_path), "linear", dtype="float16")
    live = api.build(plan).state_dict()
    written = save(plan, Workshop.of(plan), tmp_path / "merged")
    state = kind.from_pretrained(written, dtype=torch.float16).state_dict()
    assert {tensor.dtype for tensor in live.values()} == {torch.float16, torch.float32}
    assert all(torch.equal(tensor, state[name]) for name, tensor in live.items())


def test_norms_that_scale_by_one_more_are_noted(models):
    case, folder = models
    found = stacks.structure(folder / "base", Checkpoint.open(folder / "base").tensors)
    norms = ("model.layers.*.input_layernorm", "model.layers.*.post_attention_layernorm")
    expected = {f"{name}.weight" for name in (*norms, "model.norm")} if case == "gemma" else set()
    assert set(found.offset) == expected


@pytest.mark.parametrize("case", ["mixtral", "qwen2 moe"])
def test_routers_and_experts_are_roles(case):
    kind, config, _ = CASES[case]
    with torch.device("meta"):
        model = kind(config())
    names = list(modules.stored(model))
    layers = stacks.Layers(
        blocks=1, roles=("router", "experts"), structure=stacks.structure_of(model, names)
    )
    groups = layers.groups(names)
    routers = {name for name, group in groups.items() if group == "1/router"}
    mixed = {name for name, group in groups.items() if group == "1/experts"}
    assert len(mixed) == 2 * 3 * 3 and all(".experts." in name for name in mixed)
    assert len(routers) == (2 if case == "mixtral" else 4)
    assert all(name.endswith("gate.weight") for name in routers)


def test_a_file_without_the_prefix_of_the_head_is_the_same_model(tmp_path):
    model = tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2))
    for name in ("base", "one", "two"):
        model.save_pretrained(tmp_path / name)
        bare = tf.GPT2Model(tf.GPT2Config(**GPT2))
        bare.load_state_dict(model.transformer.state_dict())
        bare.save_pretrained(tmp_path / name / "bare")
        (tmp_path / name / "model.safetensors").write_bytes(
            (tmp_path / name / "bare" / "model.safetensors").read_bytes()
        )
    assert "h.0.ln_1.bias" in Checkpoint.open(tmp_path / "base").tensors
    live = api.build(api.plan_of(tmp_path / "base", experts(tmp_path), "linear"))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(live.state_dict()[name], tensor)


@pytest.mark.parametrize("old", [("base",), ("one",), ("base", "one", "two")])
@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_models_saved_before_and_after_their_buffers_were_left_out_fit(tmp_path, case, old):
    kind, config, _ = CASES[case]
    torch.manual_seed(0)
    model, states = kind(config()), []
    mask = torch.ones(32, 32).tril().view(1, 1, 32, 32)
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    if case == "gpt2":
        buffers = {
            "transformer.h.0.attn.bias": mask,
            "transformer.h.0.attn.masked_bias": mask[0, 0, 0, 0].clone(),
        }
    for name in ("base", "one", "two"):
        model.save_pretrained(tmp_path / name)
        path = tmp_path / name / "model.safetensors"
        states.append(load_file(path))
        save_file({**states[-1], **(buffers if name in old else {})}, path, {"format": "pt"})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.002)
    plan = api.plan_of(tmp_path / "base", experts(tmp_path), "linear")
    live = modules.stored(api.build(plan))
    merged = load_file(saving.write(plan, tmp_path / "out") / "model.safetensors")
    assert set(merged) == set(states[0])
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (states[1][name] + states[2][name]) / 2)
        assert torch.equal(live[name], tensor)


def test_a_repeated_head_is_the_embedding_where_the_class_ties_without_a_word(tmp_path):
    """What is scored has one tensor for both, so that merging each by itself is another model."""
    model = tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2))
    for name in ("base", "one", "two"):
        model.save_pretrained(tmp_path / name)
        path = tmp_path / name / "model.safetensors"
        tensors = load_file(path)
        head = tensors["transformer.wte.weight"].clone()
        save_file({**tensors, "lm_head.weight": head}, path, {"format": "pt"})
        config = json.loads((tmp_path / name / "config.json").read_text())
        config.pop("tie_word_embeddings", None)
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.002)
    plan = api.plan_of(tmp_path / "base", experts(tmp_path), "dare")  # by the name of each tensor
    saved = tf.GPT2LMHeadModel.from_pretrained(saving.write(plan, tmp_path / "out")).state_dict()
    live = api.build(plan).state_dict()
    assert [name for name in live if not torch.equal(live[name], saved[name])] == []


def test_how_many_batches_a_norm_has_seen_is_the_bases(tmp_path):
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    model = tf.ResNetForImageClassification(tf.ResNetConfig(**sizes)).train()
    for name in ("base", "one", "two"):
        model.save_pretrained(tmp_path / name)
        model(torch.randn(2, 3, 32, 32))
    plan = api.plan_of(tmp_path / "base", experts(tmp_path), "linear")
    merged = load_file(saving.write(plan, tmp_path / "out") / "model.safetensors")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    path = "resnet.embedder.embedder.normalization"
    assert [one[f"{path}.num_batches_tracked"], two[f"{path}.num_batches_tracked"]] == [1, 2]
    assert merged[f"{path}.num_batches_tracked"] == 0
    mean = (one[f"{path}.running_mean"] + two[f"{path}.running_mean"]) / 2
    torch.testing.assert_close(merged[f"{path}.running_mean"], mean)


def test_an_unknown_class_is_refused_and_an_unknown_model_has_names(tmp_path):
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**TEXT))
    model.config.architectures = ["MadeUpForCausalLM"]
    with pytest.raises(errors.InputError, match="no architecture 'MadeUpForCausalLM'"):
        modules.architecture(model.config, "here")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"llama"', '"made_up"'))
    names = Checkpoint.open(tmp_path).tensors
    layers = stacks.layers(tmp_path, names, {"blocks": 2, "roles": ("mlp",)})
    assert layers.structure is None
    assert set(layers.groups(names).values()) == {
        "embedding", "head", "1/mlp", "1/other", "2/mlp", "2/other"
    }  # fmt: skip


def test_an_adapter_has_the_names_of_modules(tmp_path):
    """PEFT names modules of the live model, whose files may have other names."""
    kind, config, _ = CASES["llava"]
    kind(config()).save_pretrained(tmp_path / "base")
    path = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_"
    factors = {f"{path}A.weight": torch.ones(2, 16), f"{path}B.weight": torch.ones(16, 2)}
    (tmp_path / "adapter").mkdir()
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 1}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(told))
    found = inputs.load(str(tmp_path / "base"), {"a": str(tmp_path / "adapter")}, tmp_path)
    base, adapted = found.sources
    name = "language_model.model.layers.1.self_attn.q_proj.weight"
    assert list(adapted.updates()) == [name]
    torch.testing.assert_close(adapted.read(name), base.read(name) + 1)


def brightness(model, tokenizer):
    """An objective for a model without words."""
    assert tokenizer is None
    shades = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    with torch.inference_mode():
        return float(model(pixel_values=shades).logits.softmax(-1)[0, 0])


def test_a_model_of_images_is_searched_without_a_tokenizer(tmp_path):
    kind, config, _ = CASES["vit"]
    torch.manual_seed(0)
    model = kind(config())
    for name in ("base", "one", "two"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.01)
        model.save_pretrained(tmp_path / name)
    recipe = {
        "name": "sight", "base": str(tmp_path / "base"), "operator": "task_arithmetic",
        "experts": {name: str(place) for name, place in experts(tmp_path).items()},
        "objectives": {"shade": {"function": f"{__name__}:brightness"}},
        "strategy": {"name": "sobol"}, "budget": {"candidates": 4}, "shortlist": 2,
    }  # fmt: skip
    run = evomerge.search(recipe, tmp_path / "run")
    loaded = kind.from_pretrained(run.save("best", tmp_path / "best")).eval()
    assert brightness(loaded, None) == pytest.approx(run.chosen.means("test")[0])
    (tmp_path / "items.jsonl").write_text("".join(
        json.dumps({"prompt": split, "choices": ["a", "b"], "answer": 0, "split": split}) + "\n"
        for split in ("search", "validation", "test")
    ))  # fmt: skip
    with pytest.raises(errors.InputError, match="has no tokenizer, which the scorer 'choice'"):
        evomerge.evaluate(tmp_path / "base", [tmp_path / "items.jsonl"])
