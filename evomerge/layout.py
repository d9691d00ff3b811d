"""Which genes a recipe searches, and the values of those that it does not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from evomerge import errors
from evomerge.genome import Gene, Space, Value
from evomerge.plan import Template

_PARTS = ("name", "operator", "expert", "group")
_PATTERN = re.compile(
    r"^(?:(?P<operator>[\w.]+)\.)?(?P<name>\w+)(?:\[(?P<expert>[^\]]+)\])?(?:@(?P<group>.+))?$"
)


def lay_out(
    template: Template, overrides: Mapping[str, Any], where: str
) -> tuple[Space, dict[str, Value]]:
    """The genes that are searched, and the values of those that are not.

    Of overrides of one gene the one that says most of it holds, whatever their order.
    """
    declared = list(template.genes())
    genes = {gene.key: gene for gene in declared}
    fixed = {key: gene.default for key, gene in genes.items() if not gene.searched}
    for pattern, value in sorted(overrides.items(), key=_says):
        for gene in named(declared, pattern, where):
            fixed.pop(gene.key, None)
            place = f"{where}.{pattern}"
            if isinstance(value, list):
                genes[gene.key] = _narrow(gene, value, place)
            elif value != "search":
                gene.check(value, place)
                fixed[gene.key] = value
    return Space(list(_free(genes, fixed))), fixed


def _says(override: tuple[str, Any]) -> int:
    """How many parts of a gene's key a pattern has."""
    found = _PATTERN.match(override[0])
    return 0 if found is None else sum(part is not None for part in found.groups())


def named(genes: Collection[Gene], pattern: str, where: str) -> list[Gene]:
    """The genes that `weight`, `ties.weight`, `weight[code]`, `weight@2` or a mix stands for.

    RecipeError, with the nearest name, where there are none.
    """
    found = _PATTERN.match(pattern)
    if not found:
        raise errors.RecipeError(
            f"{where}: '{pattern}' is no gene; expected NAME, OPERATOR.NAME, NAME[EXPERT], "
            "NAME@GROUP or a mix of them"
        )
    chosen = list(genes)
    for part, wanted in zip(_PARTS, found.group(*_PARTS), strict=True):
        here = {str(getattr(gene, part)) for gene in chosen} - {""}
        chosen = [gene for gene in chosen if wanted in (None, getattr(gene, part))]
        if not chosen and here:
            what = "gene" if part == "name" else f"{part} of a gene"
            raise errors.RecipeError(errors.unknown(where, what, str(wanted), here))
        if not chosen:
            raise errors.RecipeError(
                f"{where}: '{pattern}': '{found['name']}' is not given by {part}; leave it out"
            )
    return chosen


def _narrow(gene: Gene, values: list[Any], where: str) -> Gene:
    for value in values:
        gene.check(value, where)
    if gene.choices:
        if len(set(values)) < len(values):
            raise errors.RecipeError(f"{where}: a choice stands twice in {values}")
        default = gene.default if gene.default in values else values[0]
        return replace(gene, choices=tuple(values), default=default)
    if len(values) != 2 or not values[0] < values[1]:
        raise errors.RecipeError(f"{where}: expected [low, high] with low < high, got {values}")
    default = min(max(float(gene.default), values[0]), values[1])
    return replace(gene, low=float(values[0]), high=float(values[1]), default=default)


def _free(genes: Mapping[str, Gene], fixed: Mapping[str, Value]) -> Iterable[Gene]:
    """Genes that are searched; conditions on fixed genes are settled here."""
    for key, gene in genes.items():
        if key in fixed:
            continue
        while gene.when is not None and gene.when[0] in fixed:
            if fixed[gene.when[0]] not in gene.when[1]:
                break
            gene = replace(gene, when=genes[gene.when[0]].when)
        else:
            yield gene
