"""Publishers that have all seen the same live release, as processes of their own: exactly one wins every round.

    python -m benchmarks.publishers --rounds 200

One JSON line a kind of storage: the local disk, an emulator of Google Cloud Storage on loopback, and the same where the answer
to every third upload is lost after it took effect.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from simpipe import releases
from simpipe.errors import PublishConflictError
from tests.fake_gcs import serving
from tests.plain_releases import make_plain, release_name

WAIT = 120.0  # seconds after which a lost publisher ends the run


def race(root: str, local: Path, rounds: int, publishers: int = 2) -> dict[str, Any]:
    """Lets publishers race for so many rounds.

    Args:
      root: as publishers name it. local: the same root on disk.

    Returns:
      Rounds by the number of winners, of all outcomes, and of rounds after which another release than the winner's was live.
    """
    sets = 2  # the candidates of a round differ from the live release, which is one of the round before
    for number in range(sets * publishers):
        make_plain(local, number)
    releases.publish(root, make_plain(local, sets * publishers), needed_steps=())
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(publishers + 1), context.Queue()
    workers = [
        context.Process(target=_publisher, args=(root, rounds, publishers, which, barrier, told)) for which in range(publishers)
    ]
    for worker in workers:
        worker.start()
    winners, outcomes, wrong = Counter(), Counter(), 0
    started = time.monotonic()
    try:
        for _ in range(rounds):
            barrier.wait(WAIT)
            barrier.wait(WAIT)
            found = [told.get(timeout=WAIT) for _ in range(publishers)]
            outcomes.update(outcome for outcome, _ in found)
            won = [release for outcome, release in found if outcome == "won"]
            winners[len(won)] += 1
            live = releases.read_pointer(root)
            wrong += live is None or [live.release] != won
            barrier.wait(WAIT)
    finally:
        for worker in workers:
            worker.join(WAIT)
            worker.terminate()
    about = {"winners": dict(sorted(winners.items())), "outcomes": dict(sorted(outcomes.items())), "wrong_pointer": wrong}
    return {"rounds": rounds, "publishers": publishers, **about, "seconds": round(time.monotonic() - started, 1)}


def _publisher(root: str, rounds: int, publishers: int, which: int, barrier: Any, told: Any) -> None:
    for number in range(rounds):
        seen = releases.read_pointer(root)
        assert seen is not None
        release = release_name(number % 2 * publishers + which)
        barrier.wait(WAIT)  # all have seen the same one
        barrier.wait(WAIT)
        try:
            releases.publish(root, release, expected=seen.release, needed_steps=())
            told.put(("won", release))
        except PublishConflictError:
            told.put(("conflict", release))
        except Exception as error:  # counted as an outcome, which ends the run
            told.put((f"{type(error).__name__}: {error}", release))
        barrier.wait(WAIT)


@contextlib.contextmanager
def emulated(folder: Path, lose_every: int = 0) -> Iterator[tuple[str, Path]]:
    """A root on the emulator, and where it lies on disk."""
    local = folder / "bucket" / "root"
    local.mkdir(parents=True)
    with serving(folder) as fake:
        fake.lose_every = lose_every
        before = os.environ.get("STORAGE_EMULATOR_HOST")
        os.environ["STORAGE_EMULATOR_HOST"] = fake.url
        try:
            yield "gs://bucket/root", local
        finally:
            del os.environ["STORAGE_EMULATOR_HOST"]
            if before is not None:
                os.environ["STORAGE_EMULATOR_HOST"] = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="rounds a kind of storage (default: %(default)s)")
    parser.add_argument("--publishers", type=int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = race(folder, Path(folder), options.rounds, options.publishers)
        print(json.dumps({"storage": "local", **found}), flush=True)
    for lose_every in (0, 3):
        with tempfile.TemporaryDirectory() as folder, emulated(Path(folder), lose_every) as (root, local):
            found = race(root, local, options.rounds, options.publishers)
        print(json.dumps({"storage": "gcs emulator", "lose_every": lose_every, **found}), flush=True)


if __name__ == "__main__":
    main()
