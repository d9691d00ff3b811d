"""The scorer kl_to: closed forms, whole distributions, and files of cached answers."""

import json
import math
import shutil

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

import evomerge
from evomerge import api, caching, errors, prompts, shelf, worker
from evomerge.files import cached
from evomerge.files.items import Item
from evomerge.scorers import kl_to
from evomerge.zoo import tiny
from tests import bigrams, families, ledgers

PROMPTS = ["abc", "defg hij", "a", "jihgfedcba", "one and two", "b" * 40, "é"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Prompts without answers, and one text."""
    path = tmp_path_factory.mktemp("prompts") / "asked.jsonl"
    splits = ("search", "validation", "test")
    rows = [{"prompt": f"{text}{i}", "split": splits[i % 3]} for i in range(6) for text in PROMPTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(folder):
    made = api.worker_for(api.alone(folder), {})
    made.live.build(api.alone(folder))
    return made.model, made.tokenizer


def whole_kl(expert, model, tokens, places):
    """Mean KL of the last places of one sequence, over the whole vocabulary, one by one."""
    found = []
    p, q = (
        m(torch.tensor([tokens[:-1]])).logits[0].double().log_softmax(1) for m in (expert, model)
    )
    for i in range(len(tokens) - 1 - places, len(tokens) - 1):
        found.append((p[i].exp() * (p[i] - q[i])).sum().item())
    return sum(found) / places


@pytest.mark.parametrize(("tokens", "top"), [(8, 260), (8, 5), (0, 260)])
def test_kl_is_that_of_whole_distributions(family, questions, tmp_path, tokens, top):
    """With all tokens kept it is equal, with few of them at most that; to itself it is 0."""
    made = caching.cache(
        questions, str(family / "left"), tmp_path / "left.yaml", tokens=tokens, top=top
    )
    bank = shelf.load(tmp_path / "left.yaml")
    assert made["items"] == len(bank.items) == 42
    left, tokenizer = loaded(family / "left")
    base, _ = loaded(family / "base")
    kept = cached.read(tmp_path / "left.safetensors")
    batch = kl_to.prepare(tokenizer, bank.items, **bank.options)
    own, found = kl_to.score(left, batch), kl_to.score(base, batch)
    assert own["score"] == pytest.approx([1.0] * 42, abs=1e-5)
    assert own["agreement"] == [1.0] * 42
    nearer = 0
    for i, item in enumerate(bank.items):
        answer = kept.answers[item.id]
        row, places = answer.tokens.tolist(), len(answer.top)
        prompt = tokenizer(item.prompt)["input_ids"]
        if tokens:
            assert row[:-places] == prompt and 1 <= places <= tokens
            assert row[-places:] == answer.top[:, 0].tolist(), "it goes on with the likeliest"
        else:
            assert row == prompts.start(tokenizer) + prompt
        expected = whole_kl(left, base, row, places)
        assert found["score"][i] == pytest.approx(math.exp(-found["kl"][i]))
        if top == 260:
            assert found["kl"][i] == pytest.approx(expected, abs=1e-4)
        else:
            assert 0 <= found["kl"][i] <= expected + 1e-5
            nearer += found["kl"][i] < expected - 1e-4
    assert top == 260 or nearer


def test_of_known_models():
    """The expert is sure of one token, the model of none, or of another."""
    n = bigrams.VOCABULARY
    expert, blank = bigrams.model("abcd", advantage=5.0), bigrams.model()
    tokens = tiny.tokenizer()("abcd")["input_ids"]
    [logits] = kl_to.expected(expert, [(tokens, 3)], 0)
    top = logits.topk(2, 1).indices
    answer = cached.Answer(torch.tensor(tokens), top, kl_to.merged(logits, top))
    sure = math.exp(5) / (math.exp(5) + n - 1)
    for measure, model, kl, agreement in (
        ("kl", expert, 0.0, 1.0),
        (
            "kl",
            blank,
            sure * math.log(sure * n) + (1 - sure) * math.log((1 - sure) * n / (n - 1)),
            None,
        ),
        ("agreement", bigrams.model("abcx", advantage=5.0), None, 2 / 3),
    ):
        found = kl_to.score(model, kl_to.Batch(("a",), (answer,), 0, measure))
        if kl is not None:
            assert found["kl"] == [pytest.approx(kl, abs=1e-5)]
            assert found["score"] == [pytest.approx(math.exp(-kl), abs=1e-5)]
        if agreement is not None:
            assert found["agreement"] == [pytest.approx(agreement)]
            assert measure == "kl" or found["score"] == found["agreement"]


@given(st.integers(1, 7), st.integers(1, 13), st.integers(0, 2**31))
def test_merging_tokens_never_raises_the_divergence(places, vocabulary, seed):
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(places, vocabulary, generator=generator) * 4 for _ in range(2))
    order = p.argsort(1, descending=True)
    last = torch.zeros(places)
    for k in range(1, vocabulary + 1):
        a, b = (kl_to.merged(logits, order[:, :k]) for logits in (p, q))
        assert a.double().exp().sum(1).allclose(torch.ones(places).double(), atol=1e-5)
        now = kl_to.divergence(a, b)
        assert (now >= last - 1e-5).all()
        last = now
    whole = torch.nn.functional.kl_div(
        q.log_softmax(1), p.log_softmax(1), reduction="none", log_target=True
    )
    assert torch.allclose(last.float(), whole.sum(1), atol=1e-4)


def test_a_file_is_read_as_it_was_written(tmp_path):
    items = (Item("a", "x", (), "", "test"), Item("é", "", (), "", "search"))
    answers = {}
    for item, (n, c, k) in zip(items, ((2, 1, 3), (7, 5, 3)), strict=True):
        logits = torch.randn(c, 11)
        top = logits.topk(k, 1).indices
        answers[item.id] = cached.Answer(torch.arange(n), top, kl_to.merged(logits, top))
    cached.write(tmp_path / "c.safetensors", cached.Cached(items, answers, "expert", "words"))
    found = cached.read(tmp_path / "c.safetensors")
    assert (found.items, found.expert, found.vocabulary) == (items, "expert", "words")
    for name, answer in answers.items():
        for part in ("tokens", "top", "log_p"):
            assert torch.equal(getattr(found.answers[name], part), getattr(answer, part))


@pytest.fixture(scope="module")
def bank(family, questions, tmp_path_factory):
    path = tmp_path_factory.mktemp("cached") / "left.yaml"
    caching.cache(questions, str(family / "left"), path, tokens=6, top=8)
    return path


def test_what_is_kept_is_small(bank):
    """Per place k tokens, k + 1 probabilities and itself, each of 4 bytes, and the prompts."""
    kept = cached.read(bank.with_suffix(".safetensors"))
    places = sum(len(answer.top) for answer in kept.answers.values())
    prompt = sum(len(answer.tokens) for answer in kept.answers.values())
    size = bank.with_suffix(".safetensors").stat().st_size
    assert size < places * 4 * 17 + prompt * 4 + len(kept.items) * 200


@pytest.mark.slow
def test_a_search_towards_an_expert(family, bank, tmp_path):
    """Nothing is right or wrong: the expert itself scores 1, the base less."""
    objectives = {"one": str(family / "one.jsonl"), "left": str(bank)}
    changes = {
        "objectives": objectives,
        "budget": {"candidates": 3},
        "shortlist": 1,
        "strategy": "sobol",
    }
    evomerge.search(families.recipe(family, **changes), tmp_path / "run")
    content = ledgers.content(tmp_path / "run")
    assert not content["failures"]
    rows = [row for row in content["answers"] if row[1] == "left"]
    for *_, score, extra in rows:
        assert score == pytest.approx(math.exp(-json.loads(extra)["kl"]))
    own = evomerge.evaluate(family / "left", [bank])["left"]
    other = evomerge.evaluate(family / "right", [bank])["left"]
    assert own.mean == pytest.approx(1, abs=1e-5) and other.mean < 0.999


@pytest.mark.slow
def test_a_front_trades_a_skill_against_the_divergence_from_an_expert(family, bank, tmp_path):
    """The search is told losses of exp(-KL), like those of a skill."""
    rows = families.questions("one", 30)  # on fewer of `validation` one is best at both
    (tmp_path / "one.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    objectives = {"one": {"bank": str(tmp_path / "one.jsonl"), "signal": "probability"}}
    recipe = families.recipe(
        family, objectives={**objectives, "left": str(bank)}, shortlist=8, fidelity="all"
    )
    run = evomerge.search(recipe, tmp_path / "run")
    rows = sorted((run.seen(point) for point in run.front), reverse=True)
    assert len(rows) > 1
    near = [row[1] for row in rows]
    assert near == sorted(near) and near[0] < near[-1]  # who is better at one is further from it
    anchor = run.searched.anchors["left"]
    assert anchor.score(0.0) == pytest.approx(1, abs=1e-5)  # the expert itself
    for id, _, losses in run.history():
        mean = run.point(f"c{id}").means("search")[1]
        assert losses[1] == pytest.approx(anchor.loss(mean))


def test_the_command_and_the_other_measure(family, questions, tmp_path, run):
    code, out, err = run(
        "bank", "cache", questions, "--expert", family / "left", "-o", tmp_path / "own.yaml",
        "--tokens", "3", "--top", "1", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["items"] == 42
    keys = yaml.safe_load((tmp_path / "own.yaml").read_text())
    keys["scorer"]["measure"] = "agreement"
    (tmp_path / "own.yaml").write_text(json.dumps(keys))
    assert evomerge.evaluate(family / "left", [tmp_path / "own.yaml"])["own"].mean == 1
    scores = evomerge.evaluate(family / "right", [tmp_path / "own.yaml"])["own"].scores
    assert set(scores * 6) <= set(map(float, range(7))), "thirds or halves, or all"


def spoil(bank, folder, change):
    """The bank with its file of answers changed."""
    data = bank.with_suffix(".safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors, about = load(data), json.loads(data[8 : 8 + size])["__metadata__"]
    change(tensors, about)
    (folder / "left.safetensors").write_bytes(save(tensors, about))
    (folder / "left.yaml").write_text(bank.read_text())
    return folder / "left.yaml"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, a: a.update(format="2"), "its format is '2'"),
        (lambda t, a: a.pop("items"), "'items'"),
        (lambda t, a: a.update(items='[["a", "b"]]'), "not enough values"),
        (lambda t, a: a.update(items='[["a", "b", "c"]]'), "item"),
        (lambda t, a: t["lengths"].fill_(1), "an answer has no place, or nothing before it"),
        (lambda t, a: t["places"].add_(1), "split"),
        (lambda t, a: t["top"].fill_(-1), "do not fit"),
        (lambda t, a: t["log_p"].fill_(0), "do not sum to 1"),
        (lambda t, a: t["log_p"].fill_(math.nan), "do not sum to 1"),
        (lambda t, a: t.update(log_p=t["log_p"][:, 0].clone()), "index out of range"),
        (lambda t, a: t.pop("top"), "'top'"),
    ],
)
def test_files_that_are_not_whole(bank, tmp_path, change, says):
    path = spoil(bank, tmp_path, change)
    with pytest.raises(errors.InputError) as caught:
        shelf.load(path)
    for part in (f"{path}: cache: ", "left.safetensors: is no file of cached answers: ", says):
        assert part in str(caught.value)


def test_what_does_not_fit_the_model(family, bank, tmp_path, questions):
    path = spoil(bank, tmp_path, lambda t, a: a.update(vocabulary="other"))
    with pytest.raises(errors.InputError, match="tokens are not those of this model"):
        evomerge.evaluate(family / "base", [path])
    path = spoil(bank, tmp_path, lambda t, a: t["top"].fill_(300))
    made, model = shelf.load(path), bigrams.model()
    batch = kl_to.Batch(
        ("i",), tuple(cached.read(tmp_path / "left.safetensors").answers.values())[:1], 0, "kl"
    )
    with pytest.raises(errors.EvaluationError, match="item i: the model has fewer tokens"):
        kl_to.score(model, batch)
    model.lm_head.weight.fill_(math.nan)
    with pytest.raises(errors.EvaluationError, match="logits of item i are not finite"):
        kl_to.score(model, batch)
    assert made.items
    (tmp_path / "left.safetensors").write_bytes(b"nothing")
    with pytest.raises(errors.InputError, match="is no file of cached answers"):
        shelf.load(tmp_path / "left.yaml")
    (tmp_path / "left.safetensors").unlink()
    with pytest.raises(errors.InputError, match="no such file"):
        shelf.load(tmp_path / "left.yaml")
    (tmp_path / "i.jsonl").write_text('{"pixels": [[1, 0]], "answer": 0, "id": "dots"}')
    with pytest.raises(errors.InputError, match=r"i\.jsonl:1: item 'dots': is an image"):
        caching.cache(tmp_path / "i.jsonl", str(family / "left"), tmp_path / "x.yaml")
    for changes, says in (
        ({"tokens": -1}, "at least 0"),
        ({"target": tmp_path / "x.json"}, r"ends with \.yaml"),
    ):
        given = {"file": questions, "expert": str(family / "left"), "target": tmp_path / "x.yaml"}
        with pytest.raises(errors.RecipeError, match=says):
            caching.cache(**{**given, **changes})


def test_a_bank_is_not_written_over_by_its_own_cache(family, tmp_path):
    bank = tmp_path / "own.yaml"
    bank.write_text(
        "name: own\nversion: 1\nscorer: exact_match\nitems: [{prompt: a, answer: b}]\n"
    )
    before = bank.read_bytes()
    with pytest.raises(errors.RecipeError, match="is the bank of the prompts"):
        caching.cache(bank, str(family / "left"), bank, tokens=2)
    assert bank.read_bytes() == before


def test_nothing_but_a_cache_is_written_over_by_one(family, tmp_path):
    model, prompts = tmp_path / "model", tmp_path / "p.jsonl"
    shutil.copytree(family / "left", model)
    before = (model / "model.safetensors").read_bytes()
    lines = [{"prompt": "ab", "answer": "x"}, {"prompt": "b"}, {"prompt": "c", "answer": None}]
    lines += [{"prompt": "d", "choices": ["e", "f"], "answer": 1}]
    prompts.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    absent = tmp_path / "absent" / "x.yaml"
    for target, says in (
        (model / "model.yaml", r"model\.safetensors: is there and holds no answers"),
        (tmp_path / "mine.yaml", r"mine\.yaml: is there and holds no answers"),
        (absent, "there is no folder"),
    ):
        with pytest.raises(errors.RecipeError, match=says):
            caching.cache(prompts, "no model", target)
    assert (model / "model.safetensors").read_bytes() == before
    for top in (2, 3):
        made = caching.cache(prompts, str(model), tmp_path / "own.yaml", tokens=1, top=top)
        assert made["items"] == len(lines)
    assert len(cached.read(tmp_path / "own.safetensors").answers) == len(lines)


def test_a_prompt_that_ends_at_once_is_kept(family, tmp_path):
    """Texts of one character, and empty lines between them."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n\n{"text": "bc"}\n')
    with worker.one_thread():
        made = caching.cache(
            tmp_path / "p.jsonl", str(family / "left"), tmp_path / "p.yaml", tokens=0
        )
    assert made["places"] == 3 and made["items"] == 2
