"""How classes are dealt to the shards of the train split: decided from counts alone, before any row is written.

A class with n training examples is cut into `min(num_shards, max(1, n // class_run))` pieces. An example's piece is a
hash of its id, so any worker can place any row without knowing the others, and no class need fit in memory. Pieces are
dealt largest first, each class to the shards that are then least loaded, all of its pieces to different ones. Until
then the expected sizes of any two shards differ by no more than the largest piece P.

Shards that got one class only then get company (unless that is wanted, or the data has one class):

1. the class with the most examples a piece is cut into one more piece, if pieces of 16 examples or more come of it;
2. else a class that lies in one piece moves to the least loaded shard that holds others; its own shard stays empty;
3. else a class is cut as in 1 as long as there is an example for each piece.

What remains is counted in `lone`. No shard is then expected to hold more than the mean and three times P.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from simpipe.errors import ContractError
from simpipe.ids import hash_ids

# Streams of hashes of one seed (below 2**32) that have nothing to do with each other or with `ids.holdout`.
PIECE, ROW_ORDER, CLASS_ORDER, _SHARD_ORDER = (number << 32 for number in range(1, 5))
_GOOD_PIECE = 16


def _none() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class TrainPlan:
    """In which shards each class lies.

    Attributes:
      num_shards: of the train split.
      counts: int64[c], training examples of each class.
      starts: int64[c + 1], shards: int64[p]. Pieces of class i lie in `shards[starts[i]:starts[i + 1]]`, which grow: who
        knows in which shards a class lies knows the piece, and with `piece_of` the shard, of each id.
      lone: shards that hold one class though the data has others.
    """

    num_shards: int = 1
    counts: np.ndarray = field(default_factory=_none)
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    shards: np.ndarray = field(default_factory=_none)
    lone: tuple[int, ...] = ()

    @property
    def loads(self) -> np.ndarray:
        """float64[num_shards]: how many examples each shard is expected to hold."""
        pieces = np.diff(self.starts)
        sizes = np.repeat(self.counts / np.maximum(pieces, 1), pieces)
        return np.bincount(self.shards, sizes, self.num_shards)

    def shard_of(self, classes: np.ndarray, ids: Any, seed: int) -> np.ndarray:
        """The shard of each example: int64[n].

        Args:
          classes: int64[n], positions in `counts`; -1 is the last one.
          ids: string[n].
          seed: of the data set.

        Raises:
          ContractError: a class has no piece: it had no training examples when they were counted.
        """
        classes = np.where(classes < 0, classes + len(self.counts), classes)
        pieces = np.diff(self.starts)[classes]
        if (pieces == 0).any():
            raise ContractError(
                "training examples of a class that had none when they were counted",
                "rows were altered during the run: run `simpipe shard` again in an empty folder",
            )
        return self.shards[self.starts[classes] + piece_of(ids, pieces, seed)]


def piece_of(ids: Any, pieces: np.ndarray, seed: int) -> np.ndarray:
    """The piece of its class that each id belongs to: int64[n]. pieces: int64[n], how many its class has."""
    return (hash_ids(ids, seed=seed + PIECE) % pieces.astype(np.uint64)).astype(np.int64)


def plan_train(
    names: Sequence[str], counts: np.ndarray, *, num_shards: int, class_run: int, seed: int, one_class_shards: bool
) -> TrainPlan:
    """Deals classes to shards; see above. The same arguments give the same plan.

    Args:
      names: of the classes; they break ties, by a hash with `seed`.
      counts: int64[c], training examples of each. Classes without any get no piece.
    """
    pieces = np.where(counts > 0, np.minimum(num_shards, np.maximum(1, counts // class_run)), 0)
    starts = np.concatenate([[0], np.cumsum(pieces)])
    shards = _deal(names, counts, pieces, num_shards, seed)
    plan = TrainPlan(num_shards, counts, starts, shards)
    if not one_class_shards and (counts > 0).sum() > 1:
        plan = _with_company(plan)
    owner = np.repeat(np.arange(len(counts)), np.diff(plan.starts))
    return replace(plan, shards=plan.shards[np.lexsort((plan.shards, owner))])


def _deal(names: Sequence[str], counts: np.ndarray, pieces: np.ndarray, num_shards: int, seed: int) -> np.ndarray:
    """int64[p], the shard of each piece, in the order of classes."""
    starts = np.cumsum(pieces) - pieces
    sizes = counts / np.maximum(pieces, 1)
    order = np.lexsort((hash_ids(names, seed=seed + CLASS_ORDER), -sizes))
    shards = np.tile(np.arange(num_shards), 1 + int(pieces.sum()) // num_shards)[: int(pieces.sum())]
    everywhere = pieces == num_shards  # these change no shard's rank
    shards[np.repeat(everywhere, pieces)] = np.tile(np.arange(num_shards), int(everywhere.sum()))
    ties = hash_ids([str(shard) for shard in range(num_shards)], seed=seed + _SHARD_ORDER).tolist()
    heap = sorted((0.0, tie, shard) for shard, tie in enumerate(ties))
    for place in order[(pieces > 0)[order] & ~everywhere[order]].tolist():
        size, first, number = float(sizes[place]), int(starts[place]), int(pieces[place])
        taken = [heapq.heappop(heap) for _ in range(number)]
        shards[first : first + number] = [shard for _, _, shard in taken]
        for load, tie, shard in taken:
            heapq.heappush(heap, (load + size, tie, shard))
    return shards


def _with_company(plan: TrainPlan) -> TrainPlan:
    """The plan without shards of one class, as far as counts allow it."""
    counts, pieces, loads = plan.counts, np.diff(plan.starts), plan.loads
    piece_class = np.repeat(np.arange(len(counts)), pieces)
    classes_in = np.bincount(plan.shards, minlength=plan.num_shards)
    only = np.full(plan.num_shards, -1)
    alone = classes_in[plan.shards] == 1
    only[plan.shards[alone]] = piece_class[alone]
    changed: dict[int, list[int]] = {}

    def places(which: int) -> list[int]:
        return changed.setdefault(which, plan.shards[plan.starts[which] : plan.starts[which + 1]].tolist())

    for shard in np.flatnonzero(classes_in == 1).tolist():
        if classes_in[shard] != 1:  # others moved in
            continue
        mine = int(only[shard])
        # What a class's pieces would hold with one more of them; no other class has a piece here.
        after = np.where(counts > pieces, counts / (pieces + 1), 0.0)
        after[mine] = 0.0
        guest = int(after.argmax())
        if after[guest] < _GOOD_PIECE and pieces[mine] == 1:
            others = np.where((classes_in > 0) & (np.arange(plan.num_shards) != shard), loads, np.inf)
            target = int(others.argmin())
            changed[mine] = [target]
            loads[target] += loads[shard]
            classes_in[target] += 1
            loads[shard], classes_in[shard] = 0.0, 0
        elif after[guest] > 0:
            held = places(guest)
            loads[held] -= counts[guest] / pieces[guest]
            held.append(shard)
            pieces[guest] += 1
            loads[held] += counts[guest] / pieces[guest]
            classes_in[shard] += 1
    lone = tuple(np.flatnonzero(classes_in == 1).tolist())
    if not changed:
        return replace(plan, lone=lone)
    touched = np.zeros(len(counts), bool)
    touched[list(changed)] = True
    starts = np.concatenate([[0], np.cumsum(pieces)])
    shards = np.zeros(int(starts[-1]), np.int64)
    shards[~np.repeat(touched, pieces)] = plan.shards[~touched[piece_class]]
    for which, held in changed.items():
        shards[starts[which] : starts[which + 1]] = held
    return TrainPlan(plan.num_shards, counts, starts, shards, lone)
