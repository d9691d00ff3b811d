"""Which items are asked next; how many is the strategy's word, else the recipe's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from evomerge import errors
from evomerge.answers import Answers, Place
from evomerge.estimation import Estimation, View
from evomerge.files.bank import Bank
from evomerge.maths import counter_rng
from evomerge.maths.estimates import Ints
from evomerge.maths.irt import Array
from evomerge.schema import Fidelity

Blocks = dict[str, list[tuple[str, ...]]]

LEAST = 1e-300
"""Information of an item of which nobody at hand can say anything, so that it has a logarithm."""


class Chosen:
    """The items that everybody is asked, by objective, cut into blocks that are recorded.

    Where the fidelity draws none they are the first of each bank's fixed order, in its blocks.
    """

    def __init__(self, fidelity: Fidelity, answers: Answers, seed: int) -> None:
        self.fidelity, self.answers, self.seed = fidelity, answers, seed
        self.blocks: Blocks = {}

    def wanted(self, items: int | None) -> list[Place]:
        """Blocks of the `search` split with `items` items of each bank, the chosen ones first.

        Every bank has one order, so that the answers of all candidates pair up; `items` is
        rounded up to whole blocks. None: as many as the recipe says.
        """
        if not self.fidelity.draws:
            return self.answers.places("search", self.fidelity.items if items is None else items)
        return [
            (objective, "search", block)
            for objective, blocks in self.blocks.items()
            for block in (blocks if items is None else self._first(objective, blocks, items))
        ]

    def _first(
        self, objective: str, blocks: Sequence[tuple[str, ...]], items: int
    ) -> Iterator[tuple[str, ...]]:
        chosen = {id for block in blocks for id in block}
        rest = [id for id in self._pool(objective) if id not in chosen]
        given = 0
        for block in [*blocks, *self._cut(rest)]:
            if given >= items:
                return
            given += len(block)
            yield block

    def choose(
        self, told: int, estimation: Estimation, front: Sequence[str], share: float | None
    ) -> dict[str, Any]:
        """An `items` event: at most a share of the items, or one, replaced by others.

        None: all are chosen anew. `front` are the plans between which the items shall tell apart.
        Random numbers are a function of the seed, the objective and `told`, how many candidates
        have been told.
        """
        found = {}
        for objective, bank in self.answers.setup.banks.items():
            view = estimation.views.get(objective)
            trusted = view is not None and view.trusted
            at = np.array([estimation.ability(key, objective) for key in front if trusted])
            found[objective] = self._chosen(objective, bank, view, at, told, share)
        return {"told": told, "blocks": found}

    def _chosen(
        self,
        objective: str,
        bank: Bank,
        view: View | None,
        at: Array,
        told: int,
        share: float | None,
    ) -> list[tuple[str, ...]]:
        pool, n = self._pool(objective), min(self.fidelity.items or 0, len(bank.split("search")))
        stream = counter_rng.key(self.seed, "items", objective, told)
        draws = counter_rng.uniform(stream, 0, 2 * len(pool), torch.device("cpu")).numpy()
        draw, turn = np.split(draws, 2)
        ranking = _RANKINGS[self.fidelity.name]
        order = ranking(view, at, draw, n, self.fidelity.random, None if share is None else turn)
        target = [pool[i] for i in order[:n]]
        if share is None:
            return self._cut(target)
        now = [id for block in self.blocks[objective] for id in block]
        dropped = [id for id in now if id not in set(target)]
        new = [id for id in target if id not in set(now)]
        room = min(max(1, round(share * n)), len(dropped), len(new))
        gone = set(dropped[:room])
        # From all along the target, from wherever chance begins: some are drawn from strata
        begin = int(draw[0] * len(new))
        come = [new[(begin + i * len(new) // room) % len(new)] for i in range(room)]
        # Blocks of the new ones alone, so that who has answered the others is not asked again
        return [*self._cut([id for id in now if id not in gone]), *self._cut(come)]

    def use(self, blocks: Mapping[str, Sequence[Sequence[str]]], where: str) -> None:
        """Ask recorded blocks from now on; InputError for items that a bank does not have."""
        for objective, given in blocks.items():
            known = set(self._pool(objective))
            stray = [id for block in given for id in block if id not in known]
            if stray:
                raise errors.InputError(
                    f"{where}: the items chosen for '{objective}' are not those of its bank: "
                    f"no '{stray[0]}' in search"
                )
            self.blocks[objective] = [tuple(block) for block in given]

    def _pool(self, objective: str) -> list[str]:
        return [item.id for item in self.answers.setup.banks[objective].split("search")]

    def _cut(self, ids: Sequence[str]) -> list[tuple[str, ...]]:
        size = self.answers.setup.batch
        return [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]


def _random(
    view: View | None, at: Array, draw: Array, n: int, share: float, turn: Array | None
) -> Ints:
    return np.argsort(draw, kind="stable")


def _stratified(
    view: View | None, at: Array, draw: Array, n: int, share: float, turn: Array | None
) -> Ints:
    """As equally from every stratum as there are."""
    if view is None:
        return _random(view, at, draw, n, share, turn)
    return _in_turn(view.strata, draw, np.arange(len(draw)))


def _informative(
    view: View | None, at: Array, draw: Array, n: int, share: float, turn: Array | None
) -> Ints:
    """Most Fisher information (Lord 1980) summed over the abilities of the front, and a share
    from strata, for the level and for misfit; strata alone where the fit is not to be trusted.

    Where items turn they are drawn with weights of their information (Efraimidis and Spirakis
    2006), or a long search would be fitted to the few that have most of it; by numbers of its
    own, or those from strata would be the ones that such a draw leaves, with little of it.
    """
    if view is None or not view.trusted:
        return _stratified(view, at, draw, n, share, turn)
    information = np.maximum(view.items.information(at).sum(axis=0), LEAST)
    merit = information if turn is None else np.log1p(-turn) / information
    order = np.argsort(-merit, kind="stable")
    drawn = round(share * n)
    best, rest = order[: n - drawn], order[n - drawn :]
    strata = _in_turn(view.strata, draw, rest)
    # All along, so that whoever is asked the first of them alone has his share of strata too
    between = np.arange(1, drawn + 1) * len(best) // max(drawn, 1)
    return np.append(np.insert(best, between, strata[:drawn]), strata[drawn:])


def _in_turn(strata: Ints, draw: Array, among: Ints) -> Ints:
    """Some items in random order, one of each stratum after the other."""
    shuffled = among[np.argsort(draw[among], kind="stable")]
    place = np.zeros(len(shuffled), dtype=int)
    for stratum in np.unique(strata):
        mine = strata[shuffled] == stratum
        place[mine] = np.arange(mine.sum())
    return np.asarray(shuffled[np.argsort(place, kind="stable")])


_RANKINGS: Mapping[str, Callable[[View | None, Array, Array, int, float, Array | None], Ints]] = {
    "random": _random, "stratified": _stratified, "informative": _informative,
}  # fmt: skip
"""Every item of a bank (I,) by number, those to be asked first, by the fidelity's name."""
