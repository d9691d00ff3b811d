"""Record a small run folder, with all that it was made from, for the ledger's present schema.

    python -m tests.golden.record_run

Once a schema: what is recorded is what people have, and is kept when the next schema comes.
"""

import gc
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

import evomerge
from evomerge.files.ledger import NAME, SCHEMA
from evomerge.zoo.tiny import tokenizer
from tests import families

FOLDER = Path(__file__).parent / f"run_schema_{SCHEMA}"
RECIPE = {
    "name": "golden",
    "base": "base",
    "experts": {"left": "left", "right": "right"},
    "operator": "task_arithmetic",
    "space": {"genes": {"weight": [0, 1.2]}},
    "objectives": {"one": "one.jsonl", "two": "two.jsonl"},
    "strategy": {"name": "nsga2", "population": 4},
    "budget": {"candidates": 6},
    "shortlist": 2,
    "batch": 2,
    "seed": 3,
}


def model(folder: Path, seed: int) -> None:
    config = LlamaConfig(
        vocab_size=260, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=True,
        bos_token_id=256, eos_token_id=257, pad_token_id=258,
    )  # fmt: skip
    made = LlamaForCausalLM(config).to(torch.bfloat16)
    near, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    for tensor in made.state_dict().values():
        found = torch.randn(tensor.shape, generator=near) * 0.5
        step = torch.randn(tensor.shape, generator=own) * 0.2
        tensor.copy_(found + step if seed else found)
    made.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    if not seed:
        tokenizer().save_pretrained(folder)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:  # whose name is all a ledger tells of a machine
        record(Path(place) / FOLDER.name)
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(Path(place) / FOLDER.name, FOLDER)


def record(folder: Path) -> None:
    folder.mkdir()
    for seed, name in enumerate(("base", "left", "right")):
        model(folder / name, seed)
    for name in ("one", "two"):
        rows = families.questions(name, 2)
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    rows = evomerge.search(folder / "recipe.yaml", folder / "run").front.rows()
    (folder / "front.json").write_text(json.dumps(rows, indent=1) + "\n")
    gc.collect()  # the run, and with it its connection
    db = sqlite3.connect(folder / "run" / NAME)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("PRAGMA page_size=1024")
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("VACUUM")
    db.close()


if __name__ == "__main__":
    main()
