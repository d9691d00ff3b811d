"""Inner products of task vectors, group by group: lengths and angles of merges without weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evomerge.genome import Gene
from evomerge.inputs import Inputs
from evomerge.materialize import Merged, Workshop
from evomerge.maths import combine
from evomerge.passes import EXTENT
from evomerge.plan import Template
from evomerge.work import extents


def of(found: Inputs, template: Template, genes: Sequence[Gene]) -> npt.NDArray[np.float64]:
    """Inner products (D, D) of what genes multiply: the task vector of an expert in a group.

    Rows of genes that are not the weight of one expert are zero. Reads all models once.
    """
    merged = Merged(template.plan({}), Workshop(found.files))
    experts = [item.name for item in template.experts]
    empty = np.zeros((len(experts), len(experts)))
    grams = {group: empty.copy() for group in template.groups}
    for name in merged.mergeable:
        for start, stop in extents(merged.tensors[name], "tile", EXTENT):
            products = combine.gram(*merged.inputs(name, start, stop))
            grams[merged.groups[name]] += products[1:, 1:].numpy()
    grams[""] = np.sum(list(grams.values()), axis=0)  # of genes that stand for the whole model
    table = np.zeros((len(genes), len(genes)))
    weights = [i for i, gene in enumerate(genes) if gene.name == "weight" and gene.expert]
    for i in weights:
        for j in weights:
            if genes[i].group == genes[j].group:
                place = experts.index(genes[i].expert), experts.index(genes[j].expert)
                table[i, j] = grams[genes[i].group][place]
    return table
