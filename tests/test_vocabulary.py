"""Inputs whose vocabularies, heads or dtypes differ: rows by token, and models that load."""

import json
import re

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Fast

import evomerge
from evomerge import api, errors, generation, saving
from evomerge.files.items import Item
from evomerge.files.vocabulary import Frame, tokens
from evomerge.interop import export, plans
from evomerge.live import save
from evomerge.materialize import Merged, Workshop
from tests import families

WORDS = [f"w{i}" for i in range(10)]


def tokenizer(words, added=()):
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    found = Fast(tokenizer_object=made, unk_token="w0", eos_token="w1", pad_token="w2")
    found.add_tokens(list(added))
    return found


def build(place, words, *, added=(), rows=0, tied=True, seed=0, dtype=torch.float32, **more):
    """A Llama with one row a token, of which row and token belong together."""
    config = LlamaConfig(
        vocab_size=rows or len(words) + len(added), hidden_size=8, intermediate_size=12,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        tie_word_embeddings=tied, bos_token_id=1, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            # the same ancestor for all, and a fine-tuning of its own for each
            parts = [torch.Generator().manual_seed(100 * i + at) for at in (0, 1 + seed)]
            ancestor, change = (torch.randn(parameter.shape, generator=g) for g in parts)
            parameter.copy_(ancestor * 0.1 + change * 0.02)
        for row, word in enumerate([*words, *added]):
            draw = torch.Generator().manual_seed(int.from_bytes(word.encode(), "big") + seed)
            model.lm_head.weight[row] = torch.randn(8, generator=draw)
            model.model.embed_tokens.weight[row] = torch.randn(8, generator=draw)
            if tied:
                model.lm_head.weight[row] = model.model.embed_tokens.weight[row]
    model.to(dtype).save_pretrained(place, **more)
    tokenizer(words, added).save_pretrained(place)
    return place


def embedding(place, name="model.embed_tokens.weight"):
    return load_file(place / "model.safetensors")[name].float()


def row(place, word, **which):
    known = AutoTokenizer.from_pretrained(place).get_vocab()
    return embedding(place, **which)[known[word]]


@pytest.fixture
def trio(tmp_path):
    """A base; an expert with more tokens, in another order; one that lacks two, with others."""
    base = build(tmp_path / "base", WORDS)
    more = build(tmp_path / "more", WORDS[::-1], added=("new", "both"), seed=1)
    less = build(tmp_path / "less", WORDS[:8], added=("other", "both"), seed=2)
    return base, {"more": more, "less": less}


def merged_rows(base, experts, word):
    """What a row is to be: the mean of the experts that have it."""
    known = {e: AutoTokenizer.from_pretrained(e).get_vocab() for e in experts.values()}
    return torch.stack([row(e, word) for e, words in known.items() if word in words]).mean(0)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("base", WORDS),
        ("expert:more", [*WORDS[::-1], "new", "both"]),
        ("union", [*WORDS, "new", "both", "other"]),
    ],
)
def test_rows_follow_their_tokens(trio, tmp_path, choice, words):
    base, experts = trio
    plan = api.plan_of(base, experts, "linear", tokenizer=choice)
    folder = save(plan, Workshop.of(plan), tmp_path / "merged")
    known = AutoTokenizer.from_pretrained(folder).get_vocab()
    assert sorted(known, key=known.get) == words
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == len(words)
    for word in words:
        expected = merged_rows(base, experts, word)
        torch.testing.assert_close(row(folder, word), expected, rtol=0, atol=1e-6)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    live = api.build(plan)
    assert loaded.config.vocab_size == len(words)
    for name, tensor in live.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_missing_token_is_no_task_vector(trio):
    base, experts = trio
    plan = api.plan_of(base, experts, "task_arithmetic", weight=[0.5, 0.25], tokenizer="union")
    merged = Merged(plan, Workshop.of(plan)).read("model.embed_tokens.weight")
    w9 = row(base, "w9") + 0.5 * (row(experts["more"], "w9") - row(base, "w9"))
    torch.testing.assert_close(merged[9], w9, rtol=0, atol=1e-6)
    # the base lacks these: whatever the weights, the mean of those that have them
    for i, word in enumerate(("new", "both", "other"), start=10):
        expected = merged_rows(base, experts, word)
        torch.testing.assert_close(merged[i], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", ["tokenizer_source", "tokenizer"])
@pytest.mark.parametrize("choice", ["base", "union", "expert:less"])
def test_a_file_s_tokenizer_is_the_plan_s(trio, key, choice):
    base, experts = trio
    source = str(experts["less"]) if choice == "expert:less" else choice
    data = {
        "merge_method": "task_arithmetic", "base_model": str(base), "dtype": "float32",
        "models": [{"model": str(m), "parameters": {"weight": 1}} for m in experts.values()],
        key: {"source": source} if key == "tokenizer" else source,
    }  # fmt: skip
    imported = plans.plan_of(data, "file", base.parent)
    assert imported.notes == ()
    assert imported.plan.vocabulary.tokenizer == choice
    data |= {"base_model": str(experts["less"]), "tokenizer_source": str(experts["less"])}
    assert plans.plan_of(data, "file", base.parent).plan.vocabulary.tokenizer == "base"


@pytest.mark.parametrize("choice", ["base", "union", "expert:less"])
def test_a_plan_of_other_tokens_is_not_written_for_mergekit(trio, choice):
    plan = api.plan_of(*trio, "task_arithmetic", weight=0.5, tokenizer=choice)
    with pytest.raises(errors.RecipeError, match="tokens of the models differ"):
        export.to_mergekit(plan)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_row_that_one_model_of_a_file_lacks_keeps_its_size(trio, normalize):
    base, experts = trio
    weights = {base: 0.0, **dict.fromkeys(experts.values(), 0.5)}
    data = {
        "merge_method": "linear", "base_model": str(base), "dtype": "float32",
        "models": [{"model": str(m), "parameters": {"weight": w}} for m, w in weights.items()],
        "parameters": {"normalize": normalize},
    }  # fmt: skip
    plan = plans.plan_of(data, "file", base.parent).plan
    merged = Merged(plan, Workshop.of(plan)).read("model.embed_tokens.weight")
    more, less = experts.values()
    stands_in = row(more if normalize else base, "w9")  # for `less`, which has no w9
    expected = torch.stack([row(more, "w9") + stands_in, row(more, "w1") + row(less, "w1")]) / 2
    torch.testing.assert_close(merged[[9, 1]], expected, rtol=0, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 130), st.sampled_from(["linear", "ties", "dare", "task_arithmetic"]))
def test_any_tile_has_the_same_bits(tmp_path_factory, tile, operator):
    base, experts = _shared(tmp_path_factory)
    plan = api.plan_of(base, experts, operator, tokenizer="union")
    whole, tiled = (Merged(plan, Workshop.of(plan)) for _ in range(2))
    tiled.workshop.tile = tile
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(whole.read(name), tiled.read(name))


_made = []


def _shared(factory):
    if not _made:
        place = factory.mktemp("trio")
        base = build(place / "base", WORDS)
        more = build(place / "more", WORDS[::-1], added=("new", "both"), seed=1)
        less = build(place / "less", WORDS[:8], added=("other", "both"), seed=2)
        _made.append((base, {"more": more, "less": less}))
    return _made[0]


@pytest.mark.parametrize("base_tied", [True, False])
def test_one_untied_head_unties_the_result(tmp_path, base_tied):
    base = build(tmp_path / "base", WORDS, tied=base_tied)
    experts = {
        "tied": build(tmp_path / "tied", WORDS, tied=True, seed=1),
        "untied": build(tmp_path / "untied", WORDS, tied=False, seed=2),
    }
    plan = api.plan_of(base, experts, "linear")
    folder = save(plan, Workshop.of(plan), tmp_path / "merged")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    with pytest.raises(errors.RecipeError, match="heads of the models differ"):
        export.to_mergekit(plan)
    heads = embedding(experts["tied"]), embedding(experts["untied"], "lm_head.weight")
    found = embedding(folder, "lm_head.weight")
    torch.testing.assert_close(found, (heads[0] + heads[1]) / 2, rtol=0, atol=1e-6)
    live = api.build(plan)
    assert torch.equal(live.lm_head.weight, found)
    assert not torch.equal(live.lm_head.weight, live.model.embed_tokens.weight)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert torch.equal(loaded.lm_head.weight, found)


def test_a_head_that_one_model_of_a_file_has_is_merged(tmp_path):
    base = build(tmp_path / "base", WORDS, tied=True)
    expert = build(tmp_path / "expert", WORDS, tied=False, seed=1)
    data = {
        "merge_method": "task_arithmetic", "base_model": str(base), "dtype": "float32",
        "models": [{"model": str(expert), "parameters": {"weight": 1.0}}],
    }  # fmt: skip
    plan = plans.plan_of(data, "file", tmp_path).plan
    found = Merged(plan, Workshop.of(plan)).read("lm_head.weight")
    torch.testing.assert_close(found, embedding(expert, "lm_head.weight"), rtol=0, atol=1e-6)


def test_dtypes_and_shards_may_be_mixed(tmp_path):
    kinds = {"base": torch.float32, "half": torch.float16, "brain": torch.bfloat16}
    places = {
        name: build(tmp_path / name, WORDS, seed=i, dtype=dtype, max_shard_size="1KB")
        for i, (name, dtype) in enumerate(kinds.items())
    }
    assert len(list(places["half"].glob("model-*.safetensors"))) > 1
    base = places.pop("base")
    plan = api.plan_of(base, places, "linear")
    merged = Merged(plan, Workshop.of(plan))
    parts = [Workshop.of(plan).checkpoints[item.sha256] for item in plan.experts]
    for name in merged.tensors:
        mean = sum(part.read(name).float() for part in parts) / 2
        torch.testing.assert_close(merged.read(name), mean, rtol=0, atol=1e-6)


def test_padding_rows_keep_their_places(tmp_path):
    base = build(tmp_path / "base", WORDS, rows=16)
    expert = build(tmp_path / "expert", WORDS, added=("new",), rows=16, seed=1)
    plan = api.plan_of(base, {"expert": expert}, "linear")
    merged = Merged(plan, Workshop.of(plan)).read("model.embed_tokens.weight")
    assert merged.shape == (16, 8)
    torch.testing.assert_close(merged[11:], embedding(expert)[11:])  # nobody's
    assert torch.equal(merged[10], embedding(base)[10])  # the expert has a token there
    union = api.plan_of(base, {"expert": expert}, "linear", tokenizer="union")
    both = Merged(union, Workshop.of(union)).read("model.embed_tokens.weight")
    torch.testing.assert_close(both[10], row(expert, "new"))


@pytest.mark.slow
def test_a_search_with_one_more_token(family, tmp_path):
    """Live model, endpoints and the exported folder all have the union's rows."""
    expert = tmp_path / "right"
    model = AutoModelForCausalLM.from_pretrained(family / "right")
    known = AutoTokenizer.from_pretrained(family / "right")
    known.add_tokens(["<tool>"])
    model.resize_token_embeddings(261, mean_resizing=False)
    model.save_pretrained(expert)
    known.save_pretrained(expert)
    experts = {"left": str(family / "left"), "right": str(expert)}
    recipe = families.recipe(family, experts=experts, tokenizer="union", budget={"candidates": 6})
    run = evomerge.search(recipe, tmp_path / "run")
    assert run.plan("best").vocabulary is not None and run.plan("base").vocabulary is not None
    folder = run.save("best", tmp_path / "best")
    assert "<tool>" in AutoTokenizer.from_pretrained(folder).get_vocab()
    banks = [family / "one.jsonl", family / "two.jsonl"]
    found = evomerge.evaluate(folder, banks, batch=10)
    assert [score.mean for score in found.values()] == run.chosen.means("test")


def without_tokenizer(place):
    (place / "tokenizer.json").unlink()


def two_of_a_number(place):
    path = place / "tokenizer.json"
    path.write_text(path.read_text().replace('"w3":3', '"w3":4').replace('"w3": 3', '"w3": 4'))


@pytest.mark.parametrize(
    ("words", "added", "spoil", "choice", "says"),
    [
        ([f"x{i}" for i in range(10)], (), None, "base", "another kind of tokenizer"),
        (WORDS, ("new",), without_tokenizer, "base", "can not be told apart"),
        (WORDS, ("new",), two_of_a_number, "base", "the number 4, that of"),
        ([*WORDS, "w10"], (), None, "union", "can only add added tokens; choose tokenizer: exp"),
        (WORDS, ("new",), None, "expert:nobody", "unknown expert 'nobody'"),
        (WORDS, ("new",), None, "unoin", "expected base, union or expert:NAME"),
    ],
)
def test_token_maps_that_disagree(refused, family, tmp_path, words, added, spoil, choice, says):
    base = build(tmp_path / "base", WORDS)
    expert = build(tmp_path / "expert", words, added=added, seed=1)
    if spoil:
        spoil(expert)
    recipe = families.recipe(family, base=str(base), experts={"e": str(expert)}, tokenizer=choice)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    code = errors.USAGE if choice in ("expert:nobody", "unoin") else errors.INPUT
    refused("plan", tmp_path / "r.yaml", code=code, says=says)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"model": []}, "model.vocab: expected texts"),
        ({"model": {"vocab": None}}, "model.vocab: expected texts"),
        ({"model": {"vocab": 5}}, "model.vocab: expected texts"),
        ({"model": {"vocab": [["a", 0.1], ["a", 0.2]]}}, "each of them once"),
        ({"model": {"vocab": [["a", 0.1], 5]}}, "model.vocab: expected texts"),
        ({"model": {"vocab": {"a": [0]}}}, "gives 'a' the number [0]"),
        ({"added_tokens": 5}, "added_tokens: expected mappings with 'content'"),
        ({"added_tokens": [{"id": 1}]}, "added_tokens: expected mappings with 'content'"),
        ({"added_tokens": [{"content": "b"}]}, "gives 'b' the number None"),
    ],
)
def test_a_file_that_is_no_tokenizer_s_is_refused(tmp_path, data, says):
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(errors.InputError, match=re.escape(says)) as caught:
        tokens(tmp_path, "expert: folder")
    assert str(caught.value).startswith("expert: folder")


def test_a_tokenizer_that_changed_is_not_the_plan_s(trio):
    base, experts = trio
    plan = api.plan_of(base, experts, "linear")
    tokenizer(WORDS[:8][::-1], ("other", "both")).save_pretrained(experts["less"])
    with pytest.raises(errors.InputError, match="tokenizers of the inputs are not those"):
        Merged(plan, Workshop.of(plan))


def test_equal_tokens_with_another_template_and_end(tmp_path):
    base = build(tmp_path / "base", WORDS)
    expert = build(tmp_path / "expert", WORDS, seed=1)
    (expert / "chat_template.jinja").write_text("{{ messages[0].content }} w4")
    for file in ("config.json", "generation_config.json"):
        told = json.loads((expert / file).read_text())
        (expert / file).write_text(json.dumps({**told, "eos_token_id": 4}))
    plans = {
        choice: api.plan_of(base, {"e": expert}, "linear", tokenizer=choice)
        for choice in ("base", "expert:e")
    }
    folders = [save(p, Workshop.of(p), tmp_path / p.key[:9]) for p in plans.values()]
    for folder, end in zip(folders, (1, 4), strict=True):
        assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == end
        assert json.loads((folder / "config.json").read_text())["eos_token_id"] == end
        assert (AutoTokenizer.from_pretrained(folder).chat_template is None) == (end == 1)
    assert torch.equal(embedding(folders[0]), embedding(folders[1]))
    with pytest.raises(errors.RecipeError, match="another tokenizer"):
        saving.write(plans["expert:e"], tmp_path / "adapter", adapter=2)
    texts = {choice: export.to_mergekit(plan) for choice, plan in plans.items()}
    assert f"those of {expert}\n" in texts["expert:e"] and "tokenizer" not in texts["base"]
    assert yaml.safe_load(texts["expert:e"]) == yaml.safe_load(texts["base"])


@pytest.mark.parametrize("words", [WORDS, WORDS[::-1]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_a_text_ends_in_the_search_as_in_the_saved_model(tmp_path, words, file):
    base = build(tmp_path / "base", WORDS)
    expert = build(tmp_path / "expert", words, seed=1)
    told = json.loads((expert / file).read_text())
    ends = [0, *range(2, 10)]
    (expert / file).write_text(json.dumps({**told, "eos_token_id": ends}))
    if file == "config.json":
        for folder in (base, expert):
            (folder / "generation_config.json").unlink()
    plan = api.plan_of(base, {"e": expert}, "linear", tokenizer="expert:e")
    saved = save(plan, Workshop.of(plan), tmp_path / "saved")
    live, theirs = api.build(plan), api.build(api.alone(saved))
    items = [Item(w, f"{w} w5", (), "w3", "test") for w in WORDS[2:]]
    known = AutoTokenizer.from_pretrained(saved)
    options = {"max_new_tokens": 6, "stop": []}
    batch = generation.prepare(known, items, lambda text, accepted: True, options)
    texts = [generation.tokens(model, batch) for model in (live, theirs)]
    assert texts[0] == texts[1] and any(len(row) == 1 for row in texts[0])
    assert live.config.eos_token_id == theirs.config.eos_token_id
    assert (live.config.eos_token_id == ends) == (file == "config.json")


def test_an_expert_without_a_tokenizer_has_none_to_give(tmp_path):
    base = build(tmp_path / "base", WORDS)
    expert = build(tmp_path / "expert", WORDS, seed=1)
    for path in expert.glob("*token*"):
        path.unlink()
    with pytest.raises(errors.InputError, match=r"tokenizer: expert:e: .*expert has no tokenizer"):
        api.plan_of(base, {"e": expert}, "linear", tokenizer="expert:e")


def test_equal_vocabularies_need_no_record(family):
    plan = api.plan_of(family / "base", {"left": family / "left"}, "linear", tokenizer="union")
    assert plan.vocabulary is None and "vocabulary" not in plan.model_dump()
    models = list(Workshop.of(plan).checkpoints.values())
    assert Frame(models, ["base", "left"], "base").plain


def test_other_shapes_are_still_refused(tmp_path):
    base = build(tmp_path / "base", WORDS)
    tensors = load_file(base / "model.safetensors")
    other = build(tmp_path / "other", WORDS)
    tensors["model.norm.weight"] = torch.ones(9)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(errors.InputError, match=r"'model\.norm\.weight' is \(9,\)"):
        api.plan_of(base, {"other": other}, "linear")
