"""The Flex Template's parameters: one table, from which `templates/dataflow/metadata.json` is written.

A launch names a verb of the command line and a configuration. Project, region, temporary folder, service account, subnetwork
and image are those of the launch itself: the verb's own jobs take them over.

python -m simpipe.template > templates/dataflow/metadata.json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from simpipe.config.runner import DataflowRunner
from simpipe.errors import ConfigError

VERBS = (
    "run", "reindex", "shard", "import", "train", "embed", "build", "calibrate", "evaluate", "gate", "publish", "dedupe",
    "prune", "rollback", "fsck",
)  # fmt: skip
WITH_RELEASE = ("gate", "publish")
_BUCKET = r"gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"
_NAME = r"[!-:<-~]"  # printable ASCII, no space, no semicolon
_KEYS = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"


def pattern_of(field: str) -> str:
    """The regular expression that a field of `runner`, of kind `dataflow`, must match."""
    found = [pattern for each in DataflowRunner.model_fields[field].metadata if (pattern := getattr(each, "pattern", None))]
    return found[0]


@dataclass(frozen=True)
class Parameter:
    """One parameter, as a launch form shows it. `kind`: `paramType` of the metadata."""

    name: str
    label: str
    help: str
    regex: str
    required: bool = False
    kind: str = "TEXT"

    def accepts(self, value: str) -> bool:
        """Whether the regular expression matches the whole of a value."""
        return re.fullmatch(self.regex, value) is not None


IMAGE = Parameter(
    "sdk_container_image",
    "Image",
    "The container image of this job's worker and of the workers of the verb's own jobs, by digest: the image that the template "
    "was built with.",
    pattern_of("image"),
    required=True,
)
PARAMETERS = (
    Parameter(
        "verb",
        "Verb",
        f"What to run, a verb of the command line: {', '.join(VERBS)}.",
        f"^({'|'.join(VERBS)})$",
        required=True,
    ),
    Parameter(
        "config",
        "Configuration",
        "The YAML configuration in Cloud Storage, such as gs://BUCKET/configs/catalogue.yaml.",
        rf"^{_BUCKET}/{_NAME}+\.ya?ml$",
        required=True,
        kind="GCS_READ_FILE",
    ),
    Parameter(
        "root",
        "Root",
        "Where data sets, releases and the pointer live, in the place of the configuration's `root`.",
        rf"^{_BUCKET}(/{_NAME}*)?$",
    ),
    Parameter(
        "run_id",
        "Run id",
        "Names the run's summary, ROOT/runs/RUN_ID.json: a lower-case letter, then letters, digits and hyphens. Left out, one is "
        "made; a workflow gives its own, to read the summary afterwards.",
        "^[a-z][a-z0-9-]{0,62}$",
    ),
    Parameter(
        "overrides",
        "Changes of the configuration",
        "Values to change, as in `search.target_recall=0.95;build.workers=8`; each is read as YAML and holds no semicolon.",
        rf"^{_KEYS}=[^;\n]*(;{_KEYS}=[^;\n]*)*$",
    ),
    Parameter(
        "no_publish",
        "Do not publish",
        "true: `reindex` builds, measures and judges only; another launch publishes.",
        "^(true|false)$",
    ),
    Parameter(
        "deltas",
        "Changes",
        "A folder in Cloud Storage with upsert/ and delete/: what `reindex` applies, instead of comparing the whole source.",
        rf"^{_BUCKET}(/{_NAME}*)?$",
        kind="GCS_READ_FOLDER",
    ),
    Parameter(
        "release",
        "Release",
        "The release id or tag that `gate` judges or `publish` makes live; left out, the release of the configuration.",
        "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
    ),
    Parameter(
        "jobs_on",
        "Where the verb's own jobs run",
        "dataflow (default): in jobs of their own, with workers that suit each verb. local: in the one worker of this job, which "
        "is enough for small data.",
        "^(dataflow|local)$",
    ),
    Parameter(
        "max_workers",
        "Most workers",
        "The most workers of each of the verb's own jobs, in the place of the configuration's `runner.max_workers`.",
        "^[1-9][0-9]*$",
    ),
    IMAGE,
)


@dataclass(frozen=True)
class Launch:
    """What a launch asks for; `None`: not given. See `PARAMETERS`."""

    verb: str
    config: str
    root: str | None = None
    run_id: str | None = None
    overrides: tuple[str, ...] = ()
    no_publish: bool = False
    deltas: str | None = None
    release: str | None = None
    jobs_on: str = "dataflow"
    max_workers: int | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Launch:
        """From the parameters' texts, those of Beam left out; an empty text is one that was not given.

        Raises:
          ConfigError: lists every one that is unknown, missing or malformed, or does not go with the verb.
        """
        given = {name: text for name, text in parameters.items() if text}
        known = {each.name: each for each in PARAMETERS if each is not IMAGE}
        wrong = [f"  {name}: no such parameter" for name in given if name not in known]
        for name, parameter in known.items():
            if name not in given and parameter.required:
                wrong.append(f"  {name}: is missing")
            elif name in given and not parameter.accepts(given[name]):
                wrong.append(f"  {name}: {given[name]!r} does not match {parameter.regex}")
        verb = given.get("verb")
        for name, verbs in (("no_publish", ("reindex",)), ("deltas", ("reindex",)), ("release", WITH_RELEASE)):
            if given.get(name, "false") != "false" and verb not in verbs:
                wrong.append(f"  {name}: goes with {' and '.join(verbs)}, not with {verb}")
        if wrong:
            cure = "templates/dataflow/metadata.json says what each takes"
            raise ConfigError(f"{len(wrong)} wrong template parameter{'s' * (len(wrong) > 1)}\n" + "\n".join(wrong), cure)
        values: dict[str, Any] = dict(given)
        if "overrides" in values:
            values["overrides"] = tuple(values["overrides"].split(";"))
        if "no_publish" in values:
            values["no_publish"] = values["no_publish"] == "true"
        if "max_workers" in values:
            values["max_workers"] = int(values["max_workers"])
        return cls(**values)

    def parameters(self) -> dict[str, str]:
        """The texts that `of` makes the same launch from; what has its default value is left out."""
        default = {each.name: each.default for each in fields(self)}
        given = {name: value for name, value in asdict(self).items() if value != default[name]}
        if self.overrides:
            given["overrides"] = ";".join(self.overrides)
        if self.no_publish:
            given["no_publish"] = "true"
        return {name: str(value) for name, value in given.items()}


@dataclass(frozen=True)
class Cloud:
    """Where the launched job runs: what its verb's own jobs take over. Fields as in `runner`, of kind `dataflow`."""

    project: str
    region: str
    image: str
    temp: str
    service_account: str | None = None
    subnetwork: str | None = None
    endpoint: str | None = None


def command_of(launch: Launch, cloud: Cloud) -> list[str]:
    """Arguments of `simpipe` for a launch; the user's own changes of the configuration come last and win."""
    sets: dict[str, Any] = {}
    if launch.jobs_on == "dataflow":
        sets = {f"runner.{name}": value for name, value in asdict(cloud).items() if value is not None}
        if launch.max_workers is not None:
            sets["runner.max_workers"] = launch.max_workers
    if launch.root is not None:
        sets["root"] = launch.root
    # JSON is YAML in which no text is taken for a number.
    changes = [*(f"{name}={json.dumps(value)}" for name, value in sets.items()), *launch.overrides]
    found = [launch.verb, "--config", launch.config, "--runner", launch.jobs_on]
    for change in changes:
        found += ["--set", change]
    for option, value in (("--run-id", launch.run_id), ("--deltas", launch.deltas), ("--release", launch.release)):
        if value is not None:
            found += [option, value]
    return [*found, "--no-publish"] if launch.no_publish else found


def metadata() -> dict[str, Any]:
    """What `gcloud dataflow flex-template build --metadata-file` takes."""
    return {
        "name": "simpipe",
        "description": "Runs a verb of simpipe in a job of one worker, which submits the verb's own jobs.",
        "parameters": [
            {
                "name": each.name,
                "label": each.label,
                "helpText": each.help,
                "isOptional": not each.required,
                "regexes": [each.regex],
                "paramType": each.kind,
            }
            for each in PARAMETERS
        ],
    }


def metadata_text() -> str:
    """The metadata file as it is in the repository."""
    return json.dumps(metadata(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(metadata_text())
