"""Which data set each step of the line reads and writes.

A step's folder is named by a key: the digest of its inputs, its configuration and its code. A finished folder of the
same key is the result; an unfinished one is continued.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from simpipe import files, releases
from simpipe.code import code_version
from simpipe.config import Config
from simpipe.config.models import VectorsSource
from simpipe.data.examples import DATASET_JSON, DatasetInfo
from simpipe.embeddings import EMBEDDINGS_JSON, EmbeddingsInfo
from simpipe.errors import ContractError, ReleaseError
from simpipe.groups import DEDUPE_JSON
from simpipe.manifest import Manifest
from simpipe.training.encoder import ENCODER_JSON, EncoderInfo


class LineKeys:
    """Keys and folders of one configuration's steps, and its release."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = files.located(config.root)

    @property
    def has_encoder(self) -> bool:
        """Ready-made vectors have none: their line begins at import."""
        return not isinstance(self.config.source, VectorsSource)

    def _key(self, step: str, **inputs: Any) -> str:
        return files.digest({"step": step, "code": code_version(step), **inputs})

    @cached_property
    def examples(self) -> tuple[Path, str]:
        from simpipe.data.sources import source_fingerprint

        config = self.config
        key = self._key(
            "shard",
            source=source_fingerprint(config.source),
            config=[dump(part) for part in (config.source, config.classes, config.queries, config.shard)],
            rejects=dump(config.rejects),
            seed=config.seed,
        )
        return self.root / "examples" / key[:12], key

    @cached_property
    def encoder(self) -> tuple[Path, str]:
        folder, _ = self.examples
        info = self._need(DatasetInfo.load, folder, DATASET_JSON, "shard")
        # Only what the encoder sees: classes that are merely indexed may come and go without retraining.
        seen = [[shard.sha256 for shard in info.splits["train"].shards], info.train_classes, info.input.model_dump(mode="json")]
        config = dump(self.config.train)
        if config["start_from"] is not None:  # which encoder it is, not where it lies
            config["start_from"] = EncoderInfo.load(files.located(config["start_from"])).fingerprint
        key = self._key("train", examples=seen, config=config, seed=self.config.seed)
        return self.root / "encoders" / key[:12], key

    @cached_property
    def embeddings(self) -> tuple[Path, str]:
        config = self.config
        if not self.has_encoder:
            from simpipe.data.sources import source_fingerprint

            inputs = [dump(config.source), dump(config.classes), dump(config.queries), dump(config.rejects), config.seed]
            key = self._key("import", source=source_fingerprint(config.source), config=inputs)
        else:
            examples, encoder = self.examples[0], self.encoder[0]
            about = self._need(EncoderInfo.load, encoder, ENCODER_JSON, "train")
            info = DatasetInfo.load(examples)
            shards = [[shard.sha256 for shard in info.splits[split].shards] for split in info.splits]
            key = self._key("embed", examples=[shards, info.class_names], encoder=about.fingerprint, config=dump(config.embed))
        return self.root / "embeddings" / key[:12], key

    @cached_property
    def steps(self) -> dict[str, str]:
        """Keys of the steps that write into the release."""
        config, folder = self.config, self.embeddings[0]
        info = self._need(EmbeddingsInfo.load, folder, EMBEDDINGS_JSON, "embed" if self.has_encoder else "import")
        inputs = [[file.path, file.sha256] for file in info.files]
        settings = dump(config.build)
        if settings["representatives"] is not None:  # which groups they are, not where they lie
            path = files.located(settings["representatives"]) / DEDUPE_JSON
            settings["representatives"] = files.digest(files.read_json(path))
        build = self._key("build", embeddings=inputs, config=settings, seed=config.seed)
        settings = dump(config.calibrate)
        calibrate = self._key("calibrate", build=build, config=settings, search=dump(config.search), seed=config.seed)
        evaluate = self._key("evaluate", calibrate=calibrate, config=dump(config.evaluate), seed=config.seed)
        report = self._key("report", evaluate=evaluate, config=dump(config.report), seed=config.seed)
        return {"build": build, "calibrate": calibrate, "evaluate": evaluate, "report": report}

    def _need(self, load: Callable[[Path], Any], folder: Path, name: str, step: str) -> Any:
        if not (folder / name).exists():
            raise ContractError(
                f"{folder}: no {name}: `{step}` has not run with this configuration", f"run `simpipe {step}` first"
            )
        return load(folder)

    def release(self) -> tuple[Path, Manifest]:
        """The release of this configuration.

        Raises:
          ReleaseError: it is not built.
        """
        found = releases.find_by_steps(self.root, self.steps)
        if found is None:
            raise ReleaseError(f"{self.root}: no release of this configuration", "run `simpipe build` first")
        return found


def dump(part: Any) -> Any:
    """A part of the configuration as it goes into a key."""
    return part.model_dump(mode="json")
