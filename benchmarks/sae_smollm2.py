"""A sparse merge of a real language model, its dense rival, and that rival pruned: zoo:smollm2.

    python benchmarks/sae_smollm2.py [FOLDER] [--sparse 0.6] [--further 900]

The recipe `smollm2` as it is, and the same candidates and questions for `prune` under `sae`, with
sparsity as a fourth objective. Of the sparse front, the point with the best mean of the skills on
`validation` of those with at least `--sparse` of their task vector zero. Then that point, the
dense winner, and the dense winner pruned by magnitude in every tensor to the same sparsity of the
whole (no expert has another embedding, which is a fifth of it), on the `test` questions and on
`--further` ones of `math` and `french`, which nobody has trained on or been asked; the skills
count alike. Differences as in sae.py. What is finished is kept; hours.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from operators import borrow
from quickstart_fresh import kept_bank, scores
from sae import MARGIN, in_order, one_sided, pruned, sparse_enough

import evomerge
from evomerge import shelf
from evomerge.files.bank import Bank
from evomerge.recipe import resolve
from evomerge.zoo import questions

SKILLS = ("math", "sql", "french")
WITHOUT_LIMIT = ("math", "french")
"""Skills whose questions tell these models apart; `sql` is all right for every one of them."""
SAE = {"name": "sae", "population": 8, "cycle": 2, "growth": 1, "least": 0.5, "most": 0.85}
RECIPE = Path(__file__).parents[1] / "recipes" / "smollm2.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/sae-smollm2"))
    parser.add_argument("--sparse", type=float, default=0.6, help="share of zeros, at least")
    parser.add_argument("--further", type=int, default=900, help="questions a skill")
    options = parser.parse_args()
    runs = {}
    for kind in ("dense", "sparse"):
        borrow(resolve(recipe(kind)), options.folder, f"{kind}-0")
        runs[kind] = evomerge.search(recipe(kind), options.folder / f"{kind}-0")
    dense, n = runs["dense"].chosen, len(SKILLS)
    sparse = sparse_enough(runs["sparse"], n, options.sparse)
    sparsity = sparse.means("test")[n]
    whole = next(p for p in runs["sparse"].baselines if p.label == "uniform mean").means("test")[n]
    kept = options.folder / "answers"
    kept.mkdir(exist_ok=True)
    banks = [shelf.load(f"smollm2_{skill}") for skill in SKILLS]
    further = [further_of(skill, options.further, kept) for skill in WITHOUT_LIMIT]
    plans = {
        "sparse": runs["sparse"].plan(sparse.label), "dense": runs["dense"].plan(dense.label),
        "pruned": pruned(runs["dense"].plan(dense.label), (1 - sparsity) / (1 - whole)),
    }  # fmt: skip
    tested = {"sparse": sparse.scores["test"], "dense": dense.scores["test"]}
    found = {}
    for name, plan in plans.items():
        more = dict(zip(WITHOUT_LIMIT, scores(plan, further, kept), strict=True))
        if name not in tested:
            tested[name] = [*map(in_order, banks, scores(plan, banks, kept))]
        test = dict(zip(SKILLS, tested[name], strict=False))  # the last column is the sparsity
        found[name] = [np.append(test[s], more.get(s, ())) for s in SKILLS]
        cells = [
            f"{s} {v.mean():.3f} of {v.size:,}" for s, v in zip(SKILLS, found[name], strict=True)
        ]
        print(name, *cells, f"mean {np.mean([v.mean() for v in found[name]]):.4f}", flush=True)
    print(f"sparsity {sparsity:.3f}, of a dense merge {whole:.3f}")
    for rival in ("dense", "pruned"):
        gap, low = one_sided(found["sparse"], found[rival])
        print(f"sparse less {rival}: {gap:+.4f}, at least {low:+.4f} (margin {-MARGIN})")


def recipe(kind: str) -> dict[str, Any]:
    made = yaml.safe_load(RECIPE.read_text()) | {"executor": "inline"}
    if kind == "sparse":
        made.pop("description")
        made["objectives"]["sparsity"] = {"measure": "sparsity"}
        made |= {
            "name": kind, "operator": "prune", "strategy": {"name": "seeded", "inner": SAE},
            "space": {"blocks": 3, "genes": {"weight": [0, 1.5]}},
        }  # fmt: skip
    return made


def further_of(skill: str, count: int, folder: Path) -> Bank:
    """A bank of other questions of those that nobody trains on."""
    known = shelf.load(f"smollm2_{skill}")
    exact = shelf.load(f"smollm2_{skill}_exact")
    seen = {item.prompt for bank in (known, exact) for item in bank.items}

    def items() -> Iterator[dict[str, object]]:
        made = questions.asked(skill, {"search": 0, "validation": 0, "test": count})
        fresh = [one for _, one in made if one.prompt not in seen][:count]
        if len(fresh) < count:
            raise SystemExit(f"{skill}: {len(fresh)} further questions, expected {count}")
        return (questions.choice(question, "test") for question in fresh)

    return kept_bank(folder / f"{skill}-{count}.jsonl", known.name, items)


if __name__ == "__main__":
    main()
