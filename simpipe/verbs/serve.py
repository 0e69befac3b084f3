"""`simpipe serve`: answers over HTTP from a root's live release."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from simpipe.config import Config, parse_config
from simpipe.config.load import overridden
from simpipe.config.serve import ServeConfig
from simpipe.errors import ConfigError


def execute(config: Config, options: argparse.Namespace, beam_args: Sequence[str]) -> int:
    """Serves a configuration's root as its `serve` says; returns when it was told to end."""
    return _serve(config.root, config.serve, options)


def serve_root(root: str, options: argparse.Namespace) -> int:
    """Serves a root without a configuration; `--set serve.KEY=VALUE` changes what is by default."""
    raw: dict[str, Any] = {"name": "serve", "root": root, "source": "digits"}
    for text in options.overrides:
        if not text.startswith("serve."):
            raise ConfigError(
                f"--set {text}: beside ROOT there are no other keys than serve.KEY", "or give --config FILE without ROOT"
            )
        raw = overridden(raw, text)
    return _serve(root, parse_config(raw, "--set").serve, options)


def _serve(root: str, settings: ServeConfig, options: argparse.Namespace) -> int:
    given = {name: value for name in ("host", "port", "workers") if (value := getattr(options, name)) is not None}
    try:
        settings = ServeConfig.model_validate({**settings.model_dump(), **given})
    except ValidationError as error:
        said = "; ".join(f"--{problem['loc'][0]} {problem['input']}: {problem['msg']}" for problem in error.errors())
        raise ConfigError(said, "see docs/configuration.md, `serve`") from None
    from simpipe.serve import workers  # the web server's libraries

    workers.run(root, settings)
    return 0
