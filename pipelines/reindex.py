"""Brings the live release up to date with its source: embeds and rebuilds only what changed, judges it, publishes it.

python -m pipelines.reindex --config configs/reindex.yaml
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pipelines.live_line import LiveLine
from simpipe import files, recording, releases
from simpipe.code import code_version
from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsInfo
from simpipe.errors import ConfigError, ContractError, PublishConflictError
from simpipe.manifest import MANIFEST_JSON, Manifest, made_by
from simpipe.reindex.changes import ChangesInfo
from simpipe.reindex.deltas import Deltas, read_deltas
from simpipe.reindex.reasons import index_reasons, source_reasons
from simpipe.reindex.summary import ReindexSummary, Stages
from simpipe.reindex.units import Present, describe, open_units

Say = Callable[[str], None]
Built = tuple[Path, Manifest]
SEEN_JSON = "reindex.json"
_TRIES, _PAUSE = 10, 0.1  # `prune` looks whether a re-index runs, and holds its lock for moments


def run(
    config: Config,
    *,
    deltas: str | None = None,
    force: bool = False,
    publish: bool = True,
    beam_args: Sequence[str] = (),
    say: Say = print,
) -> ReindexSummary:
    """Compares source and live release, and makes, measures, judges and publishes a new release where they differ.

    A run that was cut off is continued by the next one; where nothing changed, nothing is made.

    Args:
      config: the line's configuration.
      deltas: a folder with `upsert/` (records that were added or changed) and `delete/` (ids to drop), instead of the source.
      force: publish although a gate failed. publish: False: stop before publishing.
      beam_args: Beam's own options. say: is told what each stage did.

    Raises:
      ReleaseError: nothing is live, or the live release is damaged.
      ConfigError: the configuration cannot be re-indexed.
      SimpipeError: what the stages raise; live stays as it is.
    """
    if config.build.representatives is not None:
        raise ConfigError("build.representatives: a re-index indexes all items", "set it to null, or use `simpipe run`")
    root = files.located(config.root)

    before = releases.read_pointer(root)
    live = before.release if before else None
    stages = Stages()
    try:
        with _alone(root):
            folder, base, lease = releases.lease_live(root)
            with lease or contextlib.nullcontext():
                work = _Reindex(config, root, folder, base, deltas, beam_args, say, stages)
                summary = work.run(force=force, publish=publish)
    except PublishConflictError as error:
        now = releases.read_pointer(root)
        summary = ReindexSummary("conflict", error.message, now.release if now else None, base=live)
    summary.note()
    return replace(summary, seconds=stages.seconds, cpu_seconds=stages.cpu_seconds)


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Held by the one re-index of a root that may run.

    Raises:
      PublishConflictError: another one runs.
    """
    with contextlib.ExitStack() as held:
        for _ in range(_TRIES):
            if held.enter_context(files.trying_lock(root / ".locks" / "reindex")):
                yield
                return
            time.sleep(_PAUSE)
        raise PublishConflictError(f"{root}: another re-index is running", "wait for it; the next run finds what is left")


@dataclass
class _Reindex:
    """One re-index of `base`, the live release in `folder`."""

    config: Config
    root: Path
    folder: Path
    base: Manifest
    deltas: str | None
    beam_args: Sequence[str]
    say: Say
    stages: Stages
    reasons: list[str] = field(default_factory=list)

    # --- the stages in order ---------------------------------------------------------------------------------------

    def run(self, *, force: bool, publish: bool) -> ReindexSummary:
        unchanged = f"nothing changed since {self.base.release}"
        with self.stages.stage("compare"):
            wanted = index_reasons(self.config, self.base)
            if self.deltas is None and not wanted and self._seen() == self._line.source_key:
                return self._summary("unchanged", unchanged)
            present = self._present()
            now = describe(open_units(self.config, present), self.base)
            self.reasons = source_reasons(self.config, self.base, now)
        if self.reasons:
            changes, built = None, self._from_source()
        else:
            embeddings, changes = self._changes(present)
            if not changes.any:
                files.remove_folder(embeddings)
                if not wanted:
                    self._remember(self.base.release)
                    return replace(self._summary("unchanged", unchanged), items=changes.items, queries=changes.queries)
                embeddings = self._embeddings_of(self.base)
            self.reasons = wanted
            built = self._rebuild(embeddings)
        return self._finish(*built, changes=changes, force=force, publish=publish)

    @cached_property
    def _deltas(self) -> Deltas | None:
        return None if self.deltas is None else read_deltas(self.config, files.located(self.deltas))

    @cached_property
    def _line(self) -> LiveLine:
        config = self._deltas.config if self._deltas else self.config
        return LiveLine(config, self._encoder, self.beam_args, self.say)

    @cached_property
    def _encoder(self) -> Path | None:
        """The folder of the encoder that embeds what is new; None for ready-made vectors."""
        if isinstance(self.config.source, VectorsSource):
            return None
        given = self.config.reindex.encoder
        if given is None:
            if self.base.encoder.folder is None:
                raise ConfigError(f"release {self.base.release}: its encoder is not kept", "set reindex.encoder to its folder")
            return files.inside(self.root, self.base.encoder.folder)
        folder = files.located(given).resolve()
        if not folder.is_relative_to(self.root.resolve()):
            raise ConfigError(f"reindex.encoder: {folder} is not under {self.root}", f"copy it to {self.root / 'encoders'}")
        return self.root / folder.relative_to(self.root.resolve())

    def _present(self) -> Present:
        """What is compared with the live release."""
        deltas, line = self._deltas, self._line
        source, examples = None, None
        if deltas is None or deltas.upserts is not None:
            if isinstance(line.config.source, VectorsSource):
                source = line.config.source
            else:
                line.shard()
                examples = line.examples[0]
        return Present(source, examples, self._encoder, deltas is not None, deltas.deletes if deltas else None)

    # --- what is built ---------------------------------------------------------------------------------------------

    def _key(self, step: str, **inputs: Any) -> str:
        return files.digest({"step": step, "code": code_version(step), "base": self._base_key, **inputs})

    @cached_property
    def _base_key(self) -> str:
        return files.sha256_file(self.folder / MANIFEST_JSON)

    def _embeddings_of(self, manifest: Manifest) -> Path:
        """The data set that a release was made from, which holds its held-out queries."""
        return self.root / "embeddings" / str(manifest.provenance.get("embeddings"))[:12]

    def _changes(self, present: Present) -> tuple[Path, ChangesInfo]:
        """Embeddings of what was added or changed, and what was deleted."""
        from pipelines import changes

        deltas, line, config = self._deltas, self._line, self.config
        settings = [part.model_dump(mode="json") for part in (config.classes, config.queries, config.rejects, config.embed)]
        key = self._key(
            "changes",
            source=deltas.fingerprint if deltas else line.source_key,
            encoder=self.base.encoder.fingerprint,
            config=[*settings, config.seed],
        )
        folder = self.root / "embeddings" / key[:12]
        with self.stages.stage("changes"):
            _, info = changes.run(
                config, present, base=self.folder, manifest=self.base, folder=folder, key=key, beam_args=self.beam_args
            )
        self.say(f"changes    {info.told}")
        return folder, info

    def _from_source(self) -> tuple[Path, Built]:
        """A release of everything that the source holds."""
        if self._deltas is not None:
            cure = "run `simpipe reindex` without --deltas, so that everything comes from the source"
            raise ConfigError(f"--deltas holds changes only, but {'; '.join(self.reasons)}", cure)
        self.say(f"reindex    everything anew: {'; '.join(self.reasons)}")
        line = self._line
        with self.stages.stage("embed"):
            line.embed()
        return line.embeddings[0], self._build(line.embeddings[0], line.steps["build"])

    def _rebuild(self, embeddings: Path) -> tuple[Path, Built]:
        """A release with the touched partitions built anew; with all of them where there is a reason."""
        from pipelines import rebuild
        from simpipe.reindex.profile import routing_drift

        config = self.config
        settings = [config.build.model_dump(mode="json"), config.reindex.model_dump(mode="json"), config.seed]
        key = self._key("rebuild", embeddings=EmbeddingsInfo.load(embeddings).key, config=settings, reasons=self.reasons)
        if not self.reasons:
            built = self._finished(key)
            if built is None:
                with self.stages.stage("rebuild"):
                    made = rebuild.run(
                        config,
                        root=self.root,
                        base=self.folder,
                        manifest=self.base,
                        delta=embeddings,
                        key=key,
                        beam_args=self.beam_args,
                    )
                if isinstance(made, rebuild.RetrainNeeded):
                    self.reasons = [made.reason]
                else:
                    built = made
            drift = routing_drift(*built, config) if built else None
            if built and drift is None:
                return embeddings, built
            if built and drift is not None:
                self.reasons = [drift]
                files.remove_folder(built[0])
        self.say(f"reindex    all partitions anew: {'; '.join(self.reasons)}")
        whole = self._unload(self.folder, self.base, embeddings)
        return embeddings, self._build(whole, self._key("rebuild", embeddings=whole.name, config=settings))

    def _unload(self, folder: Path, manifest: Manifest, delta: Path) -> Path:
        """All items as an embeddings data set: those of a release, with the changes of `delta` where that is not in it yet."""
        from pipelines import unload

        applied = manifest.provenance.get("embeddings") == EmbeddingsInfo.load(delta).key
        key = self._key("unload", release=manifest.release, delta=delta.name)
        target = self.root / "embeddings" / key[:12]
        with self.stages.stage("unload"):
            unload.run(
                self.config, base=folder, manifest=manifest, folder=target, key=key, delta=delta, applied=applied,
                beam_args=self.beam_args,
            )  # fmt: skip
        return target

    def _build(self, embeddings: Path, key: str) -> Built:
        from pipelines import build

        found = self._finished(key)
        if found is not None:
            return found
        with self.stages.stage("build"):
            return build.run(
                self.config,
                root=self.root,
                embeddings=embeddings,
                encoder=self._encoder,
                key=key,
                beam_args=self.beam_args,
            )

    def _finished(self, key: str) -> Built | None:
        """A release of this key that an earlier run built."""
        found = (pair for pair in releases.finished(self.root) if pair[1].steps.get("build") == key)
        return next((pair for pair in found if releases.looks_whole(*pair)), None)

    # --- what is measured, judged, published -----------------------------------------------------------------------

    def _finish(
        self, embeddings: Path, built: Built, *, changes: ChangesInfo | None, force: bool, publish: bool
    ) -> ReindexSummary:
        from pipelines import gate

        folder, manifest = self._note(*built, embeddings, changes)
        about = manifest.provenance["reindex"]["partitions"]
        self.say(
            f"rebuild    release {manifest.release}, {manifest.items:,} items: {about['rebuilt']} of {about['total']} partitions "
            f"built anew, {about['hidden_only']} with hidden rows, {about['carried']} as they were"
        )
        folder, manifest = self._measure(folder, manifest, embeddings)
        with self.stages.stage("gate"):
            folder, manifest, verdict = gate.judged(self.config, self.root, folder, manifest)
            recording.note_release(manifest)
            recording.note_gate(verdict)
        failed = tuple(verdict.failed)
        if failed and not force:
            reasons = "; ".join(check.reason for check in verdict.checks if not check.passed)
            outcome, message = "gate_failed", f"{manifest.release} may not go live: {reasons}"
        elif not publish:
            outcome, message = "built", f"{manifest.release} is built, not published"
        else:
            with self.stages.stage("publish"):
                if verdict.against != self.base.release:
                    raise PublishConflictError(f"{verdict.against} went live meanwhile", "run again")
                gate.publish(self.root, folder, manifest, verdict, force=force)
            self._remember(manifest.release)
            outcome, message = "published", f"{manifest.release} is live (before: {self.base.release})"
        self.say(f"reindex    {message}")
        return replace(
            self._summary(outcome, message),
            live=manifest.release if outcome == "published" else self.base.release,
            release=manifest.release,
            items=changes.items if changes else None,
            queries=changes.queries if changes else None,
            partitions=about,
            untouched=1.0 - about["rebuilt"] / max(about["total"], 1),
            failed=failed,
            forced=bool(failed) and outcome == "published",
        )

    def _note(self, folder: Path, manifest: Manifest, embeddings: Path, changes: ChangesInfo | None) -> Built:
        """Writes into a release that was built in full where it came from; one that was rebuilt in part says so already."""
        if "reindex" in manifest.provenance:
            return folder, manifest
        counts = {name: getattr(changes, name).model_dump() if changes else None for name in ("items", "queries")}
        total = len(manifest.partitions)
        about = {
            "base": self.base.release,
            **counts,
            "partitions": {"total": total, "rebuilt": total, "carried": 0, "hidden_only": 0, "split": 0, "merged": 0},
            "retrained": True,
            "reasons": self.reasons,
        }
        key = EmbeddingsInfo.load(embeddings).key
        made = {"embeddings": key, "made": made_by("reindex"), "reindex": about}
        manifest = manifest.model_copy(update={"provenance": {**manifest.provenance, **made}})
        manifest.save(folder)
        return folder, manifest

    def _measure(self, folder: Path, manifest: Manifest, embeddings: Path) -> Built:
        """Calibration and evaluation, as a run of the line does them."""
        from pipelines import calibrate, evaluate
        from pipelines.evaluate import METRICS_JSON
        from pipelines.line import headline

        config, kept = self.config, manifest.steps
        measured = [config.calibrate, config.evaluate, config.search]
        key = self._key("calibrate", build=kept["build"], config=[part.model_dump(mode="json") for part in measured])
        if "items" in (config.calibrate.queries, config.evaluate.queries) or config.evaluate.one_shot is not None:
            embeddings = self._unload(folder, manifest, embeddings)
        for name, step in (("calibrate", calibrate.run), ("evaluate", evaluate.run)):
            if kept.get(name) != key:
                with self.stages.stage(name):
                    folder, manifest = step(config, release=folder, embeddings=embeddings, key=key, beam_args=self.beam_args)
        self.say(f"evaluate   {headline(files.read_json(folder / METRICS_JSON)['metrics'])}")
        return folder, manifest

    def _summary(self, outcome: Any, message: str) -> ReindexSummary:
        reasons = tuple(self.reasons)
        return ReindexSummary(outcome, message, self.base.release, base=self.base.release, reasons=reasons)

    # --- what the source was like when it was compared last --------------------------------------------------------

    def _seen(self) -> str | None:
        """The source's key when the live release was made, or when it was found unchanged since."""
        path = self.root / SEEN_JSON
        with contextlib.suppress(ContractError, AttributeError):  # none yet, or damaged: the source is compared
            seen = files.read_json(path)
            if seen.get("release") == self.base.release:
                return seen.get("source")
        if not self._line.has_encoder:
            return self.base.provenance.get("embeddings")
        folder = self._embeddings_of(self.base)
        if not (folder / EMBEDDINGS_JSON).exists():
            return None
        examples = EmbeddingsInfo.load(folder).provenance.get("examples")
        return files.digest([examples, self._line.encoder[1]])

    def _remember(self, release: str) -> None:
        if self._deltas is None:
            files.write_json(self.root / SEEN_JSON, {"release": release, "source": self._line.source_key})


if __name__ == "__main__":
    from simpipe.cli import main

    sys.exit(main(["reindex", *sys.argv[1:]]))
