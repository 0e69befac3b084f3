"""The line of a configuration with an encoder that is there already, as a re-index walks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from pipelines.line import Line
from simpipe import files
from simpipe.config import Config


class LiveLine(Line):
    """Nothing is trained: `encoder` is the folder of the one that embeds; None for ready-made vectors."""

    def __init__(self, config: Config, encoder: Path | None, beam_args: Sequence[str], say: Callable[[str], None]) -> None:
        super().__init__(config, beam_args, say)
        self._given = encoder

    @cached_property
    def encoder(self) -> tuple[Path, str]:
        from simpipe.training.encoder import EncoderInfo

        assert self._given is not None
        return self._given, EncoderInfo.load(self._given).key

    @property
    def source_key(self) -> str:
        """Tells one state of the source from another, without reading it."""
        return files.digest([self.examples[1], self.encoder[1]]) if self.has_encoder else self.embeddings[1]
