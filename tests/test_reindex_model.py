"""Any sequence of changes, re-indexes, publishes, rollbacks, prunes and kills: lookups agree with a dictionary after each step.

12 sequences; 300 where `SIMPIPE_NIGHTLY` is set (`make nightly`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import reindex_model as model
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from pipelines import reindex
from simpipe import releases
from simpipe.errors import DuplicateIdError, ReleaseError
from simpipe.fsck import check_root
from simpipe.prune import prune

EXAMPLES = 300 if os.environ.get("SIMPIPE_NIGHTLY") else 12
ids = st.lists(st.sampled_from(model.names()[0]), min_size=1, max_size=12, unique=True)
seeds = st.integers(0, 2**32 - 1)


class Catalogue(RuleBasedStateMachine):
    """The files of a catalogue, its releases, and dictionaries of what each of these holds."""

    template: Path
    started: model.Truth

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="reindex-"))
        self.root = self.folder / "root"
        self.config = model.config_of(self.folder)
        self.released: dict[str, model.Truth] = {}
        self.version = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize()
    def start(self) -> None:
        model.copy_of(self.template, self.folder)
        self.truth = dict(self.started)
        model.write_source(self.folder / "source", self.truth)
        self.live, self.previous = self.pointer(), None
        self.released[self.live] = dict(self.truth)

    def pointer(self) -> str:
        pointer = releases.read_pointer(self.root)
        assert pointer is not None
        return pointer.release

    # --- the catalogue changes -----------------------------------------------------------------------------------

    def put(self, names: list[str], seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.version += 1
        self.truth |= {name: model.new_item(rng, self.version) for name in names}
        model.write_source(self.folder / "source", self.truth)

    @rule(names=ids, seed=seeds)
    def add(self, names: list[str], seed: int) -> None:
        self.put([name for name in names if name not in self.truth], seed)

    @rule(names=ids, seed=seeds)
    def change(self, names: list[str], seed: int) -> None:
        self.put([name for name in names if name in self.truth], seed)

    @rule(names=ids)
    def delete(self, names: list[str]) -> None:
        for name in names[: max(0, len(self.truth) - 1)]:
            self.truth.pop(name, None)
        if not self.truth:
            self.put(names[:1], 0)
        model.write_source(self.folder / "source", self.truth)

    # --- what is made of it --------------------------------------------------------------------------------------

    def went_live(self, release: str) -> None:
        if release != self.live:
            self.live, self.previous = release, self.live
            self.released[release] = dict(self.truth)

    @rule()
    def reindex(self) -> None:
        summary = reindex.run(self.config, say=lambda text: None)
        same = self.released[self.live] == self.truth
        assert summary.outcome == ("unchanged" if same else "published"), summary
        self.went_live(self.pointer())

    @rule()
    def build_then_publish(self) -> None:
        summary = reindex.run(self.config, publish=False, say=lambda text: None)
        assert self.pointer() == self.live
        if summary.outcome == "built":
            assert summary.release is not None
            releases.publish(self.root, summary.release)
            self.went_live(summary.release)

    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        twice = data.draw(st.sampled_from(sorted(self.truth)))
        model.write_source(self.folder / "source", self.truth, twice=twice)
        with pytest.raises(DuplicateIdError, match=twice):
            reindex.run(self.config, say=lambda text: None)
        model.write_source(self.folder / "source", self.truth)

    @rule()
    def rollback(self) -> None:
        if self.previous is None:
            with pytest.raises(ReleaseError, match="no previous"):
                releases.rollback(self.root)
            return
        releases.rollback(self.root)
        self.live, self.previous = self.previous, self.live

    @rule(keep=st.integers(1, 3))
    def prune(self, keep: int) -> None:
        prune(self.root, keep=keep)
        wrong = [finding for finding in check_root(self.root).findings if finding.severity == "error"]
        assert not [finding for finding in wrong if finding.path not in model.NOT_MEASURED]

    @precondition(lambda self: self.released[self.live] != self.truth)
    @rule(renames=st.integers(0, 40))
    def kill(self, renames: int) -> None:
        model.killed_reindex(self.folder, renames)
        self.went_live(self.pointer())

    # --- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def answers(self) -> None:
        if self.released:
            assert self.pointer() == self.live
            model.check_live(self.root, self.released[self.live])


def test_lookups_agree_with_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.without_measuring(monkeypatch)
    rng = np.random.default_rng(0)
    Catalogue.started = {name: model.new_item(rng, 0) for name in model.names()[0][:40]}
    model.first_release(tmp_path, Catalogue.started)
    Catalogue.template = tmp_path
    run_state_machine_as_test(
        Catalogue,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=10,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # sequences are short; shrinking one takes minutes
        ),
    )
