"""Experts that do not descend from the base, or hide that they do; and inputs that can not be."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge import ancestry, api, errors
from evomerge.files import likeness
from evomerge.files.checkpoint import Checkpoint
from evomerge.inputs import load
from evomerge.recipe import resolve
from tests import families
from tests.model_folders import save

CONFIG = LlamaConfig(
    vocab_size=32, hidden_size=32, intermediate_size=80, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, rope_theta=1e4,
)  # fmt: skip
LAYER = "model.layers.{}.{}.weight"


def model(seed=0, noise=0.0):
    """A random Llama, and `noise` of its size added, as by a hard training."""
    torch.manual_seed(seed)
    found = LlamaForCausalLM(CONFIG).eval()
    torch.manual_seed(99)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape) * noise * parameter.std().nan_to_num())
    return found


def rotated(found):
    """W_Q, W_K by A and its inverse transpose, W_V, W_O by R and its inverse, in each head.

    A turns and scales each pair of coordinates that RoPE turns: that commutes with it.
    """
    size = CONFIG.hidden_size // CONFIG.num_attention_heads
    state = found.state_dict()
    for layer in range(CONFIG.num_hidden_layers):
        q, k, v, o = (state[LAYER.format(layer, f"self_attn.{x}_proj")] for x in "qkvo")
        angle = torch.linspace(1.0, 2.5, size // 2)
        turn = torch.zeros(size, size)
        for i, (cos, sin) in enumerate(zip(angle.cos(), angle.sin(), strict=True)):
            j = i + size // 2
            turn[i, i] = turn[j, j] = cos
            turn[i, j], turn[j, i] = -sin, sin
        turn *= 2
        mix = torch.randn(size, size, generator=torch.Generator().manual_seed(layer))
        mix += 2 * torch.eye(size)
        groups = CONFIG.num_attention_heads // CONFIG.num_key_value_heads
        for head in range(CONFIG.num_attention_heads):
            rows = slice(head * size, (head + 1) * size)
            q[rows] = turn @ q[rows]
            o[:, rows] = o[:, rows] @ torch.linalg.inv(mix)
        for head in range(CONFIG.num_attention_heads // groups):
            rows = slice(head * size, (head + 1) * size)
            k[rows] = torch.linalg.inv(turn).T @ k[rows]
            v[rows] = mix @ v[rows]
    return found


def permuted(found):
    state = found.state_dict()
    for layer in range(CONFIG.num_hidden_layers):
        order = torch.randperm(80, generator=torch.Generator().manual_seed(layer))
        for leaf in ("gate_proj", "up_proj"):
            state[LAYER.format(layer, f"mlp.{leaf}")].copy_(
                state[LAYER.format(layer, f"mlp.{leaf}")][order].clone()
            )
        down = state[LAYER.format(layer, "mlp.down_proj")]
        down.copy_(down[:, order].clone())
    return found


def rescaled(found):
    state = found.state_dict()
    for layer in range(CONFIG.num_hidden_layers):
        state[LAYER.format(layer, "mlp.up_proj")].mul_(8)
        state[LAYER.format(layer, "mlp.down_proj")].div_(8)
    return found


def looked(tmp_path, expert):
    model().save_pretrained(tmp_path / "base")
    expert.save_pretrained(tmp_path / "expert")
    return ancestry.look(*map(Checkpoint.open, (tmp_path / "base", tmp_path / "expert")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rotated, ["self_attn.q_proj and", "W_Q^T W_K of each head", "rewritten", "W_O W_V of"]),
        (permuted, ["mlp.up_proj: cosine", "another order", "sorted norms 1.000", "permuted"]),
        (rescaled, ["mlp.up_proj is 8.", "times the base's", "rescaled"]),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_what_computes_the_same_is_seen(tmp_path, change, says, noise):
    expert, plain = change(model(noise=noise)), model(noise=noise)
    tokens = torch.arange(12)[None]
    with torch.inference_mode():  # what makes it invisible from the outside
        torch.testing.assert_close(expert(tokens).logits, plain(tokens).logits, rtol=0, atol=1e-3)
    _, faults = looked(tmp_path, expert)
    told = "\n".join(faults)
    for part in says if noise == 0 else says[-1:]:
        assert part in told, told
    assert "another ancestor" not in told


def test_another_ancestor_is_seen(tmp_path):
    kinds, faults = looked(tmp_path, model(seed=1))
    assert len(faults) == 1 and "another ancestor" in faults[0]
    assert max(abs(kind.cosine) for kind in kinds.values()) < 0.2


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 0.3, 0.6])
def test_a_hard_training_is_none_of_these(tmp_path, noise):
    kinds, faults = looked(tmp_path, model(noise=noise))
    assert faults == []
    assert len(kinds) == 7
    for kind in kinds.values():  # of a change of this size in every entry
        assert kind.change == pytest.approx(noise, rel=0.15, abs=1e-6)
        assert kind.cosine == pytest.approx((1 + noise**2) ** -0.5, abs=0.05)


def test_few_rows_of_few_layers_are_read(tmp_path, monkeypatch):
    model().save_pretrained(tmp_path / "base")
    base = Checkpoint.open(tmp_path / "base")
    read = []
    whole = base.read_flat
    monkeypatch.setattr(ancestry, "ROWS", 3)
    monkeypatch.setattr(ancestry, "LAYERS", 1)
    monkeypatch.setattr(base, "read_flat", lambda *a: read.append(a) or whole(*a))
    ancestry.look(base, base)
    assert len(read) == 2 * 7 and all(name.startswith("model.layers.0.") for name, *_ in read)
    assert max(stop for *_, stop in read) == 3 * 80


@pytest.mark.slow
def test_a_mismatch_is_refused_and_can_be_allowed(refused, run, family, tmp_path):
    """A zoo of two ancestors: in `plan` and before a search, with the numbers."""
    other = tmp_path / "other"
    shutil.copytree(family / "left", other)
    tensors = load_file(other / "model.safetensors")
    draw = torch.Generator().manual_seed(5)
    tensors = {n: torch.randn(t.shape, generator=draw) * 0.3 for n, t in tensors.items()}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    recipe = families.recipe(family, experts={"left": str(family / "left"), "other": str(other)})
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(recipe))
    says = ["experts.other: half of its matrices", "another ancestor", "allow_mismatch: true"]
    refused("plan", path, code=errors.INPUT, says=says)
    refused("search", path, "-o", tmp_path / "run", code=errors.INPUT, says=says)
    refused("search", path, "-o", tmp_path / "run", code=errors.INPUT, says=says)  # also again
    with pytest.raises(errors.InputError, match="another ancestor"):
        api.plan_of(family / "base", {"other": other}, "linear")
    assert api.plan_of(family / "base", {"other": other}, "linear", allow_mismatch=True)
    path.write_text(json.dumps(recipe | {"allow_mismatch": True, "budget": {"candidates": 6}}))
    code, _, said = run("search", path, "-o", tmp_path / "run")
    assert code == 0 and "another ancestor" in said


def test_integers_have_to_be_equal(family, tmp_path):
    for name in ("base", "left"):
        shutil.copytree(family / name, tmp_path / name)
        tensors = load_file(family / name / "model.safetensors")
        tensors["model.ids"] = torch.arange(6).view(2, 3)
        tensors["model.ids"][1, 1] += name == "left"
        save_file(tensors, tmp_path / name / "model.safetensors")
    with pytest.raises(errors.InputError) as caught:
        load(str(tmp_path / "base"), {"left": str(tmp_path / "left")}, tmp_path)
    assert "experts.left: 'model.ids' at [1, 1] is 5, the base has 4" in str(caught.value)
    assert load(str(tmp_path / "base"), {"same": str(tmp_path / "base")}, tmp_path).experts


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.1.mlp.up_proj.weight", (2, 3)),  # in a sample: before anything is scored
        ("model.norm.weight", (5,)),
    ],
)
def test_a_value_that_is_no_number_is_named_with_its_place(
    refused, family, tmp_path, name, place, value
):
    bad = tmp_path / "bad"
    shutil.copytree(family / "left", bad)
    tensors = load_file(bad / "model.safetensors")
    tensors[name][place] = value
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    recipe = families.recipe(family, experts={"bad": str(bad)})
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    says = [name, f"{value} at {list(place)}", "bad", "not finite"]
    refused("search", tmp_path / "r.yaml", "-o", tmp_path / "run", code=errors.INPUT, says=says)
    refused("merge", tmp_path / "r.yaml", "-o", tmp_path / "out", code=errors.INPUT, says=says)
    assert not (tmp_path / "out").exists()


def configured(place, **changes):
    path = place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return place


def test_an_experts_own_config_that_says_otherwise_is_pointed_out(family, tmp_path):
    turned = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}
    changes = {"rope_parameters": turned, "rms_norm_eps": 1e-5, "eos_token_id": 7}
    left = configured(shutil.copytree(family / "left", tmp_path / "left"), **changes)
    experts = {"left": str(left), "right": str(family / "right")}
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(families.recipe(family, experts=experts)))
    assert list(resolve(path).notes()) == [
        "expert 'left' is merged and scored with the base's config, and its own differs: "
        "rope_theta is 1000000.0 (the base's 10000.0); "
        "rope_scaling is {'rope_type': 'yarn', 'factor': 4.0} (the base's None); "
        "rms_norm_eps is 1e-05 (the base's 1e-06)"
    ]
    assert not list(resolve(families.recipe(family)).notes())


@pytest.mark.parametrize(
    ("base", "expert", "says"),
    [
        ({"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e6}}, "rope_theta is 1000000.0"),
        (
            {"rope_theta": 1e4, "rope_scaling": None},
            {"rope_parameters": {"rope_theta": 10000, "rope_type": "default"}},
            "",
        ),
        ({"id2label": {"0": "a", "1": "b"}}, {"id2label": {"0": "b", "1": "a"}}, "id2label.0 is"),
        ({"id2label": {"0": "LABEL_0"}}, {"id2label": {"0": "a"}}, ""),
        (
            {"text_config": {"rms_norm_eps": 1, "dtype": "float32"}},
            {"text_config": {"rms_norm_eps": 2, "dtype": "bfloat16"}},
            "text_config.rms_norm_eps is 2 (the base's 1)",
        ),
        ({"dtype": "float32", "pad_token_id": 1}, {"dtype": "float16", "pad_token_id": 2}, ""),
        ({"attn_pdrop": 0.1, "_name_or_path": "a"}, {"attn_pdrop": 0, "_name_or_path": "b"}, ""),
        ({"layer_norm_eps": 1}, {"more": 2}, ""),
    ],
)
def test_a_config_differs_in_what_is_computed(tmp_path, base, expert, says):
    weights = {"norm.weight": torch.ones(2)}
    models = [
        Checkpoint.open(save(tmp_path / name, weights, config), name)
        for name, config in (("base", base), ("experts.e", expert))
    ]
    found = " ".join(likeness.notes(models[0], models[1:]))
    assert says in found and bool(found) is bool(says)
