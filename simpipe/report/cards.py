"""Queries with their neighbors as cards of the report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from simpipe.report.model import NeighborCard, QueryCard
from simpipe.report.parts import Mistakes
from simpipe.types import Neighbors

CUTPOINT = "optimal"  # that matches are shown at


def query_cards(
    ids: Sequence[str],
    labels: Sequence[str | None],
    neighbors: Neighbors,
    matched: Sequence[str | None] | np.ndarray,
    *,
    limit: np.float32,
    depth: int,
    indexed: Collection[str],
) -> list[QueryCard]:
    """A card a query.

    Args:
      ids, labels: of n queries. neighbors: [n, k]. matched: n labels at the cutpoint, None for no match.
      limit: the cutpoint's distance. depth: neighbors that are shown.
      indexed: labels that items carry.
    """
    return [
        QueryCard(
            id=name,
            label=label,
            matched_label=matched[row],
            cutpoint=CUTPOINT,
            neighbors=[
                _neighbor(neighbors, row, j, label, limit)
                for j in range(min(depth, neighbors.ids.shape[1]))
                if neighbors.ids[row, j] is not None
            ],
            in_index=label in indexed,
        )
        for row, (name, label) in enumerate(zip(ids, labels, strict=True))
    ]


def mistakes_of(
    worst: Sequence[str],
    ids: Sequence[str],
    labels: Sequence[str | None],
    neighbors: Neighbors,
    wrong: Sequence[int],
    *,
    each: int,
    limit: np.float32,
) -> list[Mistakes]:
    """For each of the worst classes up to `each` of its wrong queries, with the nearest item of another label.

    Args:
      wrong: rows of queries that got another label, in the order to show them. The others: see `query_cards`.
    """
    found = []
    for label in worst:
        cards = []
        for row in wrong:
            place = first_wrong(neighbors, row, label) if labels[row] == label and len(cards) < each else None
            if place is not None:
                card = _neighbor(neighbors, row, place, label, limit)
                cards.append(QueryCard(ids[row], label, card.label if card.passes_cutpoint else None, CUTPOINT, [card]))
        if cards:
            found.append(Mistakes(label, cards))
    return found


def labels_of(cards: Sequence[QueryCard]) -> dict[str, str | None]:
    """Labels of all queries and neighbors, by id."""
    of_queries = {card.id: card.label for card in cards}
    return of_queries | {neighbor.id: neighbor.label for card in cards for neighbor in card.neighbors}


def with_pictures(cards: Sequence[QueryCard], pictures: Mapping[str, np.ndarray]) -> list[QueryCard]:
    """The cards with pictures of queries and neighbors, by id."""
    return [
        replace(
            card,
            image=pictures.get(card.id),
            neighbors=[replace(neighbor, image=pictures.get(neighbor.id)) for neighbor in card.neighbors],
        )
        for card in cards
    ]


def first_wrong(neighbors: Neighbors, row: int, label: str) -> int | None:
    """The place of the nearest item that carries another label; None where there is none."""
    places = [
        j
        for j, (name, other) in enumerate(zip(neighbors.ids[row], neighbors.labels[row], strict=True))
        if name is not None and other is not None and other != label
    ]
    return places[0] if places else None


def _neighbor(neighbors: Neighbors, row: int, j: int, label: str | None, limit: np.float32) -> NeighborCard:
    distance = neighbors.distances[row, j]
    return NeighborCard(
        id=neighbors.ids[row, j],
        label=neighbors.labels[row, j],
        distance=float(distance),
        rank=j + 1,
        correct=label is not None and neighbors.labels[row, j] == label,
        passes_cutpoint=bool(distance <= limit),
    )
