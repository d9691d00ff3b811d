"""Banks: the same items from YAML and JSONL, splits that never move, and clear refusals."""

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge import errors, shelf
from evomerge.files import bank, items, plain, sources

SUM = {"prompt": "1+1=", "choices": ["2", "3"], "answer": 0}


def jsonl(path: Path, *entries) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sheet(path: Path, text: str = "", **keys) -> Path:
    keys = {"name": "sums", "version": 1, "scorer": "choice", "items": [SUM], **keys}
    body = {key: value for key, value in keys.items() if value is not None}
    path.write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in body.items()) + text)
    return path


def refusal(path, kind=errors.InputError, **options) -> str:
    with pytest.raises(errors.EvomergeError) as caught:
        bank.load(path, **options)
    assert type(caught.value) is kind, caught.value
    return str(caught.value)


def questions(count):
    return [{"prompt": f"{i}+1=", "answer": f"{i + 1}"} for i in range(count)]


def test_a_bare_jsonl_is_a_bank(tmp_path):
    found = bank.load(jsonl(tmp_path / "sums.jsonl", SUM, "", {**SUM, "prompt": "x", "id": "a"}))
    assert (found.name, found.version, found.scorer, found.options) == ("sums", 1, "choice", {})
    assert found.items[0].choices == ("2", "3") and found.items[0].answer == 0
    assert len(found.items[0].id) == 16 and found.items[1].id == "a"
    free = bank.load(str(jsonl(tmp_path / "free.jsonl", *questions(3))))
    assert free.scorer == "exact_match" and free.items[2].answer == "3"


def test_yaml_and_jsonl_hold_the_same_items(tmp_path):
    entries = [SUM, {"question": "2+2=", "choices": ["4", "5"], "answer": "5"}]
    jsonl(tmp_path / "source.jsonl", *entries)
    inline = bank.load(sheet(tmp_path / "a.yaml", items=entries, licence="MIT"))
    linked = bank.load(sheet(tmp_path / "b.yaml", items=None, source="source.jsonl"))
    zoo = bank.load(
        sheet(tmp_path / "c.yaml", items=None, source="zoo:letters/sums"),
        resolve=lambda name: {"zoo:letters/sums": tmp_path / "source.jsonl"}[name],
    )
    assert inline.items == linked.items == zoo.items
    assert inline.sha256 == linked.sha256 == zoo.sha256
    assert inline.items[1].answer == 1 and inline.licence == "MIT"
    assert bank.load("zoo:x", resolve=lambda _: tmp_path / "a.yaml") == inline
    assert "the zoo is not available" in refusal("zoo:x", errors.RecipeError)


def test_scorer_options_template_and_digest(tmp_path):
    plainly = bank.load(sheet(tmp_path / "a.yaml"))
    scorer = {"name": "choice", "normalise": True}
    asked = bank.load(sheet(tmp_path / "a.yaml", scorer=scorer, prompt="Q: {prompt} {{x}}\nA:"))
    assert asked.scorer == "choice" and asked.options == {"normalise": True}
    assert asked.items[0].prompt == "Q: 1+1= {x}\nA:"
    assert (asked.items[0].id, asked.items[0].split) == (
        plainly.items[0].id,
        plainly.items[0].split,
    )
    others = [{"version": 2}, {"name": "x"}, {"items": [{**SUM, "answer": 1}]}]
    digests = {bank.load(sheet(tmp_path / "a.yaml", **keys)).sha256 for keys in others}
    assert len(digests | {plainly.sha256, asked.sha256}) == 5


def test_an_item_knows_its_place_and_is_the_same_wherever_it_stands(tmp_path):
    given = {**SUM, "prompt": "x", "id": "a"}
    lines = bank.load(jsonl(tmp_path / "x.jsonl", "", SUM, given))
    listed = bank.load(sheet(tmp_path / "y.yaml", items=[SUM, given]))
    assert lines.items == listed.items and set(lines.items) == set(listed.items)
    assert [item.named for item in lines.items] == [
        f"{tmp_path}/x.jsonl:2",
        f"{tmp_path}/x.jsonl:3: item 'a'",
    ]
    assert [item.named for item in listed.items] == [
        f"{tmp_path}/y.yaml: items[0]",
        f"{tmp_path}/y.yaml: items[1]: item 'a'",
    ]


def test_splits_follow_content_and_orders_are_fixed(tmp_path):
    entries = questions(400)
    found = bank.load(jsonl(tmp_path / "q.jsonl", *entries))
    turned = bank.load(jsonl(tmp_path / "q.jsonl", *entries[::-1]))
    parts = {name: found.split(name) for name in bank.SPLITS}
    assert {name: turned.split(name) for name in bank.SPLITS} == parts
    assert found.sha256 == turned.sha256
    assert sum(map(len, parts.values())) == 400
    assert all(
        len(part) == pytest.approx(200 if n == "test" else 100, abs=40)
        for n, part in parts.items()
    )
    assert parts["test"] != tuple(i for i in found.items if i.split == "test")
    fewer = bank.load(jsonl(tmp_path / "q.jsonl", *entries[:200])).split("search")
    assert fewer == tuple(i for i in parts["search"] if i in fewer)


def test_shares_and_named_splits(tmp_path):
    named = [{**q, "split": "validation"} for q in questions(3)]
    share = {"search": 1}
    found = bank.load(sheet(tmp_path / "a.yaml", items=[SUM], split=share))
    assert found.split("search") == found.items
    message = "no item is in the split 'test'; add items"
    with pytest.raises(errors.InputError, match=message):
        found.split("test")
    with pytest.raises(errors.RecipeError, match="Did you mean 'search'"):
        found.split("serch")
    assert len(bank.load(jsonl(tmp_path / "n.jsonl", *named)).split("validation")) == 3
    shares = {"search": 0.5, "test": 0.5}
    entries = questions(200)
    found = bank.load(sheet(tmp_path / "a.yaml", items=entries, split=shares))
    assert len(found.split("search")) == pytest.approx(100, abs=30)
    text = refusal(sheet(tmp_path / "a.yaml", split={"search": 0.5}))
    assert "a.yaml: split: shares must sum to 1, sum is 0.5" in text


def test_answers_may_be_numbers_of_any_kind(tmp_path):
    """Without choices; next to each other, to texts and in lists."""
    answers = [2, 0.5, "1/2", -1e-07, [1, 0.25, "x"]]
    rows = [{"prompt": f"{i}", "answer": answer} for i, answer in enumerate(answers)]
    found = bank.load(jsonl(tmp_path / "a.jsonl", *rows)).items
    accepted = [("2",), ("0.5",), ("1/2",), ("-1e-07",), ("1", "0.25", "x")]
    assert [item.accepted for item in found] == accepted
    assert found[0].answer == 2  # of a label, it is the number
    path = sheet(tmp_path / "b.yaml", items=None, scorer="numeric")
    path.write_text(path.read_text() + "items: [{prompt: x, answer: .inf}]\n")
    assert "answer: expected an index or a text, got inf" in refusal(path)


def test_several_answers_and_texts_without_questions(tmp_path):
    several = {"prompt": "x", "answer": ["Paris", "the city of Paris"]}
    found = bank.load(jsonl(tmp_path / "a.jsonl", several, {"prompt": "y", "answer": ["z"]}))
    assert [item.accepted for item in found.items] == [("Paris", "the city of Paris"), ("z",)]
    fewer = bank.load(jsonl(tmp_path / "a.jsonl", {**several, "answer": "Paris"}))
    assert fewer.items[0].id != found.items[0].id and fewer.items[0].also == ()
    texts = bank.load(jsonl(tmp_path / "b.jsonl", {"text": "once"}, {"text": "twice"}))
    assert texts.scorer == "perplexity"
    assert [(i.prompt, i.answer, i.accepted) for i in texts.items] == [
        ("once", "", ()),
        ("twice", "", ()),
    ]
    assert bank.load(jsonl(tmp_path / "c.jsonl", SUM)).items[0].accepted == ("2",)


def test_examples_are_taken_from_search_and_asked_no_more(tmp_path):
    entries = questions(60)
    whole = bank.load(sheet(tmp_path / "a.yaml", items=entries, scorer="exact_match"))
    keys = {"items": entries, "scorer": "exact_match", "shots": 4, "prompt": "Q: {prompt}"}
    found = bank.load(sheet(tmp_path / "a.yaml", **keys))
    turned = bank.load(sheet(tmp_path / "a.yaml", **{**keys, "items": entries[::-1]}))
    assert found.sha256 == turned.sha256 != whole.sha256
    shown = whole.split("search")[:-5:-1]
    expected = tuple((f"Q: {item.prompt}", item.answer) for item in shown)
    assert {item.shots for item in (*found.items, *turned.items)} == {expected}
    assert [i.id for i in found.split("search")] == [i.id for i in whole.split("search")[:-4]]
    for name in ("validation", "test"):
        assert [i.id for i in found.split(name)] == [i.id for i in whole.split(name)]
    assert bank.load(sheet(tmp_path / "a.yaml", **{**keys, "shots": 0})).items[0].shots == ()


def test_examples_that_a_bank_gives(tmp_path):
    given = [{"prompt": "0+0=", "answer": ["0", "zero"]}, {"question": "5+5=", "answer": "10"}]
    keys = {"items": [{"prompt": "1+1=", "answer": "2"}], "examples": given}
    keys |= {"scorer": "exact_match", "prompt": "{prompt} "}
    every = bank.load(sheet(tmp_path / "a.yaml", **keys))
    assert every.items[0].shots == (("0+0= ", "0"), ("5+5= ", "10"))
    one = bank.load(sheet(tmp_path / "a.yaml", **keys, shots=1))
    assert one.items[0].shots == (("0+0= ", "0"),) and one.sha256 != every.sha256
    choices = [{"prompt": "2+2=", "choices": ["4", "5"], "answer": 0}]
    found = bank.load(sheet(tmp_path / "b.yaml", examples=choices))
    assert found.items[0].shots == (("2+2=", "4"),)


BAD_LINES = [
    # lines, where, reason
    (["{"], 1, "is not JSON"),
    ([{"text": "x", "answer": "y"}], 1, "a 'text' has no answer"),
    ([{"text": "x", "prompt": "y"}], 1, "a 'text' without a question"),
    ([{"text": ""}], 1, "prompt: expected a text that is not empty"),
    ([{"text": "x"}, {"prompt": "x", "answer": "y"}], 2, "has an answer, unlike the first"),
    ([{"prompt": "x", "answer": []}], 1, "answer: expected one, got []"),
    ([{"prompt": "x", "answer": ["y", True]}], 1, "answer[1]: expected a text"),
    ([{**SUM, "answer": ["2", "3"]}], 1, "answer: expected one, got ['2', '3']"),
    ([SUM, '{"prompt": 1, "prompt": 2}'], 2, "'prompt' stands twice"),
    (["[1]"], 1, "expected an object with prompt and answer"),
    (["[" * 100_000], 1, "nested too deeply"),
    ([SUM, f'{{"prompt": "x", "answer": {"9" * 5000}}}'], 2, "x.jsonl:2: a number is too long"),
    ([{**SUM, "choces": 1}], 1, "unknown key 'choces', did you mean 'choices'"),
    ([{**SUM, "question": "x"}], 1, "one of 'prompt' and 'question'"),
    ([{"answer": "x"}], 1, "one of 'prompt' and 'question'"),
    ([{"prompt": "x"}], 1, "has no answer"),
    ([{"prompt": "", "answer": "x"}], 1, "prompt: expected a text that is not empty"),
    ([{"prompt": 3, "answer": "x"}], 1, "prompt: expected a text that is not empty, got 3"),
    ([{"prompt": "\ud800", "answer": "x"}], 1, "surrogate"),
    ([{"prompt": "x", "answer": ""}], 1, "answer: expected a text"),
    ([{"prompt": "x", "answer": True}], 1, "answer: expected an index or a text, got True"),
    ([{**SUM, "answer": 0.5}], 1, "answer: expected an index or a text, got 0.5"),
    ([{**SUM, "choices": ["2"]}], 1, "choices: expected at least two"),
    ([{**SUM, "choices": "ab"}], 1, "choices: expected at least two"),
    ([{**SUM, "choices": ["2", ""]}], 1, "choices[1]: expected a text that is not empty"),
    ([{**SUM, "choices": ["2", 3]}], 1, "choices[1]: expected a text"),
    ([{**SUM, "choices": ["2", "2"]}], 1, "choices: '2' stands twice"),
    ([{**SUM, "answer": 2, "id": "sum"}], 1, "item 'sum': answer: 2 is not an index of 2"),
    ([{**SUM, "answer": -1}], 1, "answer: -1 is not an index"),
    ([{**SUM, "answer": "4"}], 1, "answer: '4' is not one of the choices"),
    ([{**SUM, "split": "train"}], 1, "split 'train' is not one of search, validation, test"),
    ([{**SUM, "id": 7}], 1, 'id: expected a text that is not empty, got 7: write it as "7"'),
    ([SUM, {"prompt": "x", "answer": "y"}], 2, "has no choices, unlike the first"),
    ([SUM, {**SUM, "id": "b"}], 2, "x.jsonl:2: item 'b': same prompt and choices as"),
    ([SUM, SUM], 2, "x.jsonl:2: same prompt and choices as"),
    ([{"prompt": "x", "answer": "y"}] * 2, 2, "x.jsonl:2: same prompt and choices as"),
    ([{**SUM, "id": "a"}, {**SUM, "prompt": "y", "id": "a"}], 2, "item 'a': the id is already"),
    ([{**SUM, "split": "test"}, {**SUM, "split": "search"}], 2, "'search' and 'test' ("),
]


@pytest.mark.parametrize("lines, number, reason", BAD_LINES)
def test_bad_items_are_named_by_line(tmp_path, lines, number, reason):
    path = jsonl(tmp_path / "x.jsonl", *lines)
    message = refusal(path)
    assert message.startswith(f"{path}:{number}: ") and reason in message
    assert len(message) < 500 and "\n" not in message


def test_many_bad_items_are_named_at_once(tmp_path):
    bad = [{"prompt": f"q{i}", "answer": ""} for i in range(30)]
    message = refusal(jsonl(tmp_path / "x.jsonl", bad[0], SUM, *bad[1:]))
    numbers = [
        line.removeprefix(f"{tmp_path}/x.jsonl:").split(":")[0] for line in message.splitlines()
    ]
    assert numbers == ["1", *map(str, range(3, 12))]


def test_unusable_files(tmp_path):
    path = tmp_path / "x.jsonl"
    assert "x.jsonl: no such file" in refusal(path)
    path.write_text("\n\n")
    assert f"{path}: has no items" in refusal(path)
    path.write_bytes(b'{"prompt": "a"\xff}')
    assert f"{path}:1: is not UTF-8 at byte 14" in refusal(path)
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(SUM).encode() + b"\r\n")
    assert len(bank.load(path).items) == 1
    message = refusal(sheet(tmp_path / "y.yaml", items=[SUM, {**SUM, "answer": 9}]))
    assert "y.yaml: items[1]: answer: 9 is not an index" in message
    assert "y.yaml: has no items" in refusal(sheet(tmp_path / "y.yaml", items=[]))


@pytest.mark.parametrize(
    "keys, kind, reason",
    [
        ({"licens": "MIT"}, errors.RecipeError, "unknown key 'licens'. Did you mean 'licence'"),
        (
            {"split": {"serch": 1}},
            errors.RecipeError,
            "split: unknown key 'serch'. Did you mean 'search'? Known: search, test, validation",
        ),
        ({"version": "1"}, errors.InputError, "version: expected a whole number, got '1'"),
        ({"version": 0}, errors.InputError, "version: expected at least 1"),
        ({"version": None}, errors.InputError, "version: is missing"),
        ({"scorer": 3}, errors.InputError, "scorer: expected the name of a scorer"),
        ({"scorer": {"normalise": 1}}, errors.InputError, "scorer: expected the name of a scorer"),
        ({"source": "x.jsonl"}, errors.InputError, "expected either 'source' or 'items'"),
        ({"items": None}, errors.InputError, "expected either 'source' or 'items'"),
        (
            {"items": None, "source": "x.txt"},
            errors.RecipeError,
            "a .jsonl, .csv or .parquet file",
        ),
        ({"items": None, "source": "no.jsonl"}, errors.InputError, "no.jsonl: no such file"),
        ({"shots": -1}, errors.InputError, "shots: expected at least 0"),
        ({"shots": 2}, errors.InputError, "2 can not be taken from 1 items of 'search', one of"),
        (
            {"shots": 1, "split": {"search": 1}},
            errors.InputError,
            "1 can not be taken from 1 items",
        ),
        ({"shots": 2, "examples": [{**SUM, "prompt": "x"}]}, errors.InputError, "from 1 examples"),
        ({"examples": []}, errors.InputError, "examples: expected at least 1 item"),
        ({"examples": [{"prompt": "x"}]}, errors.InputError, "examples[0]: has no answer"),
        ({"examples": [{"text": "x"}]}, errors.InputError, "examples have no answers"),
        (
            {"examples": [SUM]},
            errors.InputError,
            "x.yaml: items[0]: stands among the examples too (",
        ),
        (
            {"examples": [{"prompt": SUM["prompt"], "answer": "2"}]},
            errors.InputError,
            "x.yaml: items[0]: stands among the examples too (",
        ),
        (
            {"examples": [{**SUM, "choices": SUM["choices"][::-1], "answer": 0}]},
            errors.InputError,
            "x.yaml: items[0]: stands among the examples too (",
        ),
        ({"prompt": "Q:"}, errors.InputError, "prompt: expected a text with {prompt}"),
        ({"prompt": "{prompt.__class__}"}, errors.InputError, "prompt: expected a text with"),
        ({"prompt": "{prompt} {"}, errors.InputError, "prompt: single '{'"),
    ],
)
def test_bad_keys_are_named(tmp_path, keys, kind, reason):
    message = refusal(sheet(tmp_path / "x.yaml", **keys), kind)
    assert message.startswith(str(tmp_path)) and reason in message and "\n" not in message


@pytest.mark.parametrize(
    "text, reason",
    [
        ("a: &x [1]\nb: [*x, *x]\n", "line 1: anchors and aliases"),
        ("a: *x\n", "line 1: anchors and aliases"),
        ("name: a\nname: b\n", "line 2: key 'name' stands twice"),
        ("a: [1\n", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("- 1\n", "expected 'key: value' lines"),
        ("", "expected 'key: value' lines"),
        ("1: 2\n", "expected 'key: value' lines"),
        ("a: " + "[" * 50_000, "nested too deeply"),
        ("a: " + "9" * 5000, "x.yaml: a number is too long"),
        ("a: \x00", "special characters are not allowed"),
        ("#" * 1_000_001, "has 1,000,001 bytes, at most 1,000,000"),
    ],
)
def test_hostile_yaml_is_refused(tmp_path, text, reason):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    message = refusal(path)
    assert message.startswith(f"{path}: ") and reason in message and "\n" not in message
    path.write_bytes(b"a: \xff")
    assert "is not UTF-8 at byte 3" in refusal(path)
    with pytest.raises(errors.RecipeError, match="not UTF-8"):
        plain.read_yaml(path, raises=errors.RecipeError)


def test_bare_names_are_shipped_banks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = sorted(path.stem for path in bank.shipped("fitness").glob("*.yaml"))
    message = refusal("nonsense_bank", errors.RecipeError)
    assert "unknown bank 'nonsense_bank'" in message and ", ".join(known) in message
    assert "expected a .yaml, .jsonl, .csv or .parquet file" in refusal(
        "a/b.txt", errors.RecipeError
    )
    assert bank.shipped("recipes").name == "recipes"


keys = st.sampled_from(items.KEYS)
values = st.none() | st.booleans() | st.integers() | st.text(max_size=3)


@given(st.lists(st.dictionaries(keys, values | st.lists(values, max_size=3)), max_size=3))
def test_any_items_load_or_are_refused(entries):
    try:
        found = items.read_list(entries, "here")
    except errors.InputError as error:
        assert str(error).startswith("here: ")
    else:
        assert len({item.id for item in found}) == len(entries)
        assert all(item.prompt and item.split in bank.SPLITS for item in found)


def test_a_folder_is_not_a_bank(tmp_path):
    for name in ("x.yaml", "x.jsonl"):
        os.mkdir(tmp_path / name)
        assert f"{name}: is a folder, expected a file" in refusal(tmp_path / name)
        with pytest.raises(errors.InputError, match=f"{name}: is a folder, expected a file"):
            shelf.load(tmp_path / name)


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        (["search", "validation", "test"], "(search, validation)"),
        (["test", "search"], "(search)"),
        (["validation"], "(validation)"),
        (["test"], ""),
        ([], ""),
    ],
)
def test_a_bank_says_which_splits_are_a_public_test_set(tmp_path, splits, named):
    mark = {"name": "Sums", "public_test": splits}
    found = bank.load(sheet(tmp_path / "a.yaml", benchmark=mark))
    said = found.benchmark.contamination()
    assert bool(said) == bool(named) and named in said
    assert not named or "public test set of Sums" in said
    assert found.sha256 == bank.load(sheet(tmp_path / "a.yaml")).sha256


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("Sums", "benchmark: expected a mapping with 'name' and 'public_test'"),
        ({"name": "Sums"}, "public_test"),
        ({"name": "", "public_test": []}, "benchmark.name"),
        ({"name": "Sums", "public_test": True}, "benchmark.public_test"),
        ({"name": "Sums", "public_test": ["train"]}, "benchmark.public_test"),
    ],
)
def test_half_a_benchmark_is_refused(tmp_path, mark, says):
    assert says in refusal(sheet(tmp_path / "a.yaml", benchmark=mark))


ROWS = [
    {"prompt": 'two, or "more"', "choices": ["3", "4", "a\nb"], "answer": 1, "split": "test"},
    {"prompt": "é", "choices": ["3", "4", "7"], "answer": "3", "id": "x"},
    {"prompt": "last", "choices": ["a", "b"], "answer": "b"},
]


def csv_of(rows, path, columns=("prompt", "choices", "answer", "split", "id")):
    """What Python's own writer makes of items; what is not there is an empty cell."""
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            shown = {**row, "choices": json.dumps(row["choices"])} if "choices" in row else row
            writer.writerow([shown.get(column, "") for column in columns])
    return path


def parquet_of(rows, path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = sorted({key for row in rows for key in row})
    whole = [{column: row.get(column) for column in columns} for row in rows]
    parquet.write_table(pyarrow.Table.from_pylist(whole), path)
    return path


def test_items_of_csv_are_those_of_json_lines(tmp_path):
    expected = bank.load(jsonl(tmp_path / "x.jsonl", *ROWS)).items
    assert bank.load(csv_of(ROWS, tmp_path / "x.csv")).items == expected
    named = sheet(tmp_path / "y.yaml", items=None, source="x.csv", scorer="choice")
    assert bank.load(named).items == expected
    texts = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "name", "answer": "7"}]
    found = bank.load(csv_of(texts, tmp_path / "t.csv", ("prompt", "answer")))
    assert found.items == bank.load(jsonl(tmp_path / "t.jsonl", *texts)).items
    assert found.scorer == "exact_match"
    long = [{"prompt": "a b" * 60_000, "answer": "2"}]
    assert bank.load(csv_of(long, tmp_path / "t.csv", ("prompt", "answer"))).items[0].place


def test_items_of_parquet_are_those_of_json_lines(tmp_path):
    rows = [{**row, "answer": i % 2} for i, row in enumerate(ROWS)]
    expected = bank.load(jsonl(tmp_path / "x.jsonl", *rows)).items
    assert bank.load(parquet_of(rows, tmp_path / "x.parquet")).items == expected
    bad = parquet_of([{**row, "answer": 2} for row in rows], tmp_path / "bad.parquet")
    assert "bad.parquet: row 2: answer: 2 is not an index of 2 choices" in refusal(bad)
    bad.write_bytes(b"PAR1")
    assert "bad.parquet: is not Parquet: " in refusal(bad)


def test_parquet_that_can_not_be_converted_names_row_and_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = pyarrow.array(["a", "b"])
    broken = pyarrow.array([b"ok", b"a\xff"]).view(pyarrow.string())
    elsewhere = pyarrow.array([None, 1], pyarrow.timestamp("s", tz="Foo/Bar"))
    for columns, says in (
        ({"prompt": texts, "answer": broken}, "x.parquet: row 1: 'answer' is not UTF-8 at byte 1"),
        ({"prompt": texts, "answer": elsewhere}, "x.parquet: row 1: 'answer' can not be read: "),
    ):
        parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        assert says in refusal(tmp_path / "x.parquet")
    assert "Foo/Bar" in refusal(tmp_path / "x.parquet")
    twice = pyarrow.Table.from_arrays([texts, texts, texts], ["prompt", "answer", "prompt"])
    parquet.write_table(twice, tmp_path / "x.parquet")
    assert "x.parquet: column 'prompt' stands twice" in refusal(tmp_path / "x.parquet")


def test_parquet_needs_its_library(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    (tmp_path / "x.parquet").write_bytes(b"")
    with pytest.raises(errors.MachineError, match="pip install pyarrow"):
        bank.load(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "text, reason",
    [
        (b"prompt,answer\na,b\nc\n", "x.csv:3: has 1 cells, expected 2"),
        (b'prompt,answer\n"a\nb",1\nc,\n', "x.csv:4: has no answer"),
        (b"prompt,prompt\na,b\n", "x.csv:1: column 'prompt' stands twice"),
        (b"prompt;answer\na;b\n", "x.csv:1: columns are separated by ';', expected commas"),
        (b"prompt\tanswer\na,b\tc\n", r"x.csv:1: columns are separated by '\t', expected commas"),
        (b"prompt,anser\na,b\n", "x.csv:2: unknown key 'anser', did you mean 'answer'"),
        (b"prompt,choices,answer\na,x|y,0\n", "x.csv:2: choices: is not JSON"),
        (b'prompt,choices,answer\na,"[""x"",""y""]",2\n', "x.csv:2: answer: 2 is not an index"),
        (
            b'prompt,choices,answer\na,"[""x"",""y""]",%s\n' % (b"9" * 5000),
            "x.csv:2: answer: '999",
        ),
        (b'prompt,answer\n"a,b\n', "x.csv:2: is not CSV"),
        (b"prompt,answer\na,\xff\n", "x.csv:2: is not UTF-8 at byte 2"),
        (b'prompt,answer\r\n"a\r\nb",1\r\n\xc3,2', "x.csv:4: is not UTF-8 at byte 0"),
        (b"id,prompt,answer\nn,a,\n", "x.csv:2: item 'n': has no answer"),
        (b"prompt,answer\n", "x.csv: has no items"),
        (b"", "x.csv: has no items"),
    ],
)
def test_bad_csv_is_named_by_line(tmp_path, text, reason):
    (tmp_path / "x.csv").write_bytes(text)
    assert reason in refusal(tmp_path / "x.csv")
