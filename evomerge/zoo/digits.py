"""zoo:digits: tiny image classifiers on scikit-learn's handwritten digits, built in seconds.

A vision transformer of 27,000 parameters learns a little of all ten digits; two experts go on with
half of the classes each, two with images that are turned, and eight networks of the same shape
have learned nothing. The images are those of Alpaydin and Kaynak (1998), Optical Recognition of
Handwritten Digits, 8 x 8 pixels. The lengths were chosen by the baselines in docs/zoo.md.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.errors import MachineError
from evomerge.packages import without_bars
from evomerge.threads import one_thread
from evomerge.zoo import banks

Report = Callable[[str, float], None]

UNTRAINED = [f"untrained{i}" for i in range(8)]
RECIPE: dict[str, Any] = {
    "family": "digits",
    "version": 1,
    "members": ["base", "low", "high", "quarter", "half", *UNTRAINED],
    "banks": ["low", "high", "quarter", "half", "plain"],
    "model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 8,
        "patch_size": 2,
        "num_channels": 1,
        "num_labels": 10,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "untrained": {"initializer_range": 0.2, "seed": 100},
    "trained_share": 0.5,
    "training": {"batch": 64, "warmup": 20, "decay": 0.01},
    "base": {"steps": 150, "rate": 3e-3, "replay": 1.0, "seed": 0},
    "expert": {"steps": 120, "rate": 2e-3, "replay": 0.1, "seed": 1},
}
DOMAINS: dict[str, tuple[range, int]] = {
    "plain": (range(10), 0),
    "low": (range(5), 0),
    "high": (range(5, 10), 0),
    "quarter": (range(10), 1),
    "half": (range(10), 2),
}
"""Name -> classes, and quarter turns of the image to the left."""

_SPACE = 16 * 2**20
_FILE = Path("datasets", "data", "digits.csv.gz")
_SHAPE = (1797, 65)


def _table() -> Any:
    """Rows of 64 pixels from 0 to 16 and a label, as scikit-learn ships them.

    The file is read without importing scikit-learn, of which nothing else is used.
    """
    import numpy as np

    spec = importlib.util.find_spec("sklearn")
    file = Path(str(spec.origin)).parent / _FILE if spec is not None else Path()
    if not file.is_file():
        raise MachineError(
            "zoo:digits is made from the images that scikit-learn brings: "
            "pip install 'evomerge[digits]'"
        )
    table = np.loadtxt(file, delimiter=",")
    if table.shape != _SHAPE or table.min() < 0 or table.max() > 16:
        raise MachineError(
            f"zoo:digits: {file} is not the table of {_SHAPE[0]} digits that was expected; "
            "install scikit-learn 1.0 or newer"
        )
    return table


class Images:
    """Images (N, 8, 8) in [-1, 1] and labels (N,), once each; `trained` (N,) is the share that is
    trained on, by the sha256 of the pixels, and no other is in a bank."""

    def __init__(self) -> None:
        import numpy as np

        table = np.unique(_table(), axis=0)
        self.pixels = (table[:, :-1] / 8 - 1).reshape(-1, 8, 8)
        self.labels = table[:, -1].astype(int)
        texts = [json.dumps(image) for image in self.pixels.tolist()]
        shares = [int(hashlib.sha256(text.encode()).hexdigest()[-8:], 16) for text in texts]
        self.trained = np.array(shares) < RECIPE["trained_share"] * 2**32
        self.splits = np.array([banks.split_of(text) for text in texts])

    def domain(self, name: str, trained: bool) -> tuple[Any, Any, Any]:
        """Images, labels and splits of a domain, of either side.

        An image is in the same split of every domain, however it is turned.
        """
        import numpy as np

        classes, turns = DOMAINS[name]
        chosen = (self.trained == trained) & np.isin(self.labels, classes)
        turned = np.rot90(self.pixels[chosen], turns, axes=(1, 2))
        return np.ascontiguousarray(turned), self.labels[chosen], self.splits[chosen]


def _write_banks(folder: Path, images: Images) -> None:
    """One bank a domain, of the images that nobody trained on, in an order that tells nothing."""
    folder.mkdir()
    for name in RECIPE["banks"]:
        sides = (side.tolist() for side in images.domain(name, trained=False))
        found = [
            banks.item({"pixels": image, "answer": label}, split)
            for image, label, split in zip(*sides, strict=True)
        ]
        random.Random(f"order of {name}").shuffle(found)
        lines = (json.dumps(item) + "\n" for item in found)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def _network(seed: int, **changes: Any) -> Any:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTForImageClassification(ViTConfig(**RECIPE["model"], **changes))


def _train(model: Any, images: Images, domain: str, own: dict[str, Any]) -> None:
    """AdamW, its rate warmed up and lowered to 0; the share `replay` comes from all digits."""
    import torch

    shared, generator = RECIPE["training"], torch.Generator().manual_seed(own["seed"])
    sides = [images.domain(name, trained=True) for name in (domain, "plain")]
    mine, whole = ((torch.tensor(x).float()[:, None], torch.tensor(y)) for x, y, _ in sides)
    replayed = round(own["replay"] * shared["batch"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=own["rate"], weight_decay=shared["decay"])
    model.train()
    for step in range(own["steps"]):
        rows = []
        for (x, y), count in ((mine, shared["batch"] - replayed), (whole, replayed)):
            at = torch.randint(len(x), (count,), generator=generator)
            rows.append((x[at], y[at]))
        pixels, labels = (torch.cat(parts) for parts in zip(*rows, strict=True))
        warm = min(1.0, (step + 1) / shared["warmup"])
        for group in optimizer.param_groups:
            group["lr"] = own["rate"] * warm * (1 - step / own["steps"])
        loss = torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def build(folder: Path, report: Report) -> None:
    """Make the whole family in `folder`, which exists and is empty: seconds on one core."""
    if shutil.disk_usage(folder).free < _SPACE:
        raise MachineError(f"zoo: less than {_SPACE >> 20} MB free at {folder}")
    images = Images()
    report("writing banks", 0.0)
    _write_banks(folder / "banks", images)
    with without_bars(), one_thread():
        base = _network(RECIPE["base"]["seed"])
        experts = [name for name in RECIPE["members"] if name in DOMAINS]
        for done, name in enumerate(["base", *experts]):
            report(f"training {name}", (done + 0.1) / (len(experts) + 1))
            own = RECIPE["base" if name == "base" else "expert"]
            model = base if name == "base" else copy.deepcopy(base)
            _train(model, images, "plain" if name == "base" else name, own)
            model.save_pretrained(folder / name)
        report("writing networks that have learned nothing", 0.99)
        begun = RECIPE["untrained"]
        for i, name in enumerate(UNTRAINED):
            network = _network(begun["seed"] + i, initializer_range=begun["initializer_range"])
            network.save_pretrained(folder / name)
