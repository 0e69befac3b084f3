"""Gets the Java program between Beam's Python SDK and Flink or Spark (its job server) with Maven, as one jar.

  python -m scripts.job_server flink --folder ~/.cache/simpipe/flink      (prints the path of the jar and its versions)

Beam publishes job servers ready-made, one for each Beam and engine version; these are taken first. Where the registry in use
does not serve them, a jar is put together from the parts they are made of, in the newest version whose parts are all served:
older than the SDK, which the portable protocol allows. The file `job-server.json` beside the jar says which it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

ABOUT = "job-server.json"
JAR = "job-server.jar"
CACHE = Path.home() / ".cache" / "simpipe"
# What Beam reaches into the JDK for on Java 17.
JAVA_OPENS = [
    f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in ("java.lang", "java.nio", "java.util", "java.io", "java.net")
]
JAVA_OPENS += ["--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.base/java.lang.invoke=ALL-UNNAMED"]


class SetupError(Exception):
    """What is missing and where to get it."""


@dataclass(frozen=True)
class JobServer:
    """A job server's jar.

    Attributes:
      engine: version of Flink or Spark that it speaks to, such as `1.20`. beam: its own version.
      made: `published` or `assembled`.
    """

    engine: str
    beam: str
    made: str


@dataclass(frozen=True)
class _Kind:
    """Where an engine's job server comes from: Maven coordinates `group:artifact:version`, and how it is put together."""

    engine: str
    published: str
    old_engine: str
    old_beam: str
    parts: tuple[str, ...]
    main_class: str


_SPARK = "3.5.0"
KINDS = {
    "flink": _Kind(
        engine="1.20",
        published="org.apache.beam:beam-runners-flink-1.20-job-server:{beam}",
        old_engine="1.19",
        old_beam="2.62.0",
        parts=("org.apache.beam:beam-runners-flink-1.19:2.62.0",),
        main_class="org.apache.beam.runners.flink.FlinkJobServerDriver",
    ),
    "spark": _Kind(
        engine="3",
        published="org.apache.beam:beam-runners-spark-3-job-server:{beam}",
        old_engine="3",
        old_beam="2.62.0",
        parts=(
            "org.apache.beam:beam-runners-spark-3:2.62.0",
            f"org.apache.spark:spark-core_2.12:{_SPARK}",
            f"org.apache.spark:spark-sql_2.12:{_SPARK}",
            f"org.apache.spark:spark-streaming_2.12:{_SPARK}",
        ),
        main_class="org.apache.beam.runners.spark.SparkJobServerDriver",
    ),
}

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>simpipe</groupId><artifactId>job-server</artifactId><version>1</version>
  <dependencies>{dependencies}</dependencies>
  <build><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId><artifactId>maven-shade-plugin</artifactId><version>3.6.0</version>
    <executions><execution><phase>package</phase><goals><goal>shade</goal></goals><configuration>
      <createDependencyReducedPom>false</createDependencyReducedPom>
      <outputFile>${{project.build.directory}}/job-server.jar</outputFile>
      <transformers>
        <transformer implementation="org.apache.maven.plugins.shade.resource.ManifestResourceTransformer">
          <mainClass>{main_class}</mainClass>
        </transformer>
        <transformer implementation="org.apache.maven.plugins.shade.resource.ServicesResourceTransformer"/>
        <transformer implementation="org.apache.maven.plugins.shade.resource.AppendingTransformer">
          <resource>reference.conf</resource>
        </transformer>
      </transformers>
      <filters><filter><artifact>*:*</artifact><excludes>
        <exclude>META-INF/*.SF</exclude><exclude>META-INF/*.DSA</exclude><exclude>META-INF/*.RSA</exclude>
        <exclude>module-info.class</exclude>
      </excludes></filter></filters>
    </configuration></execution></executions>
  </plugin></plugins></build>
</project>
"""


def find_job_server(folder: Path) -> JobServer | None:
    """What `make_job_server` left in a folder."""
    about = folder / ABOUT
    return JobServer(**json.loads(about.read_text())) if about.exists() and (folder / JAR).exists() else None


def make_job_server(engine: str, folder: Path) -> JobServer:
    """The job server of `flink` or `spark` as `folder/job-server.jar`, unless it is there.

    Raises:
      SetupError: Maven is missing, or serves neither the jar nor its parts.
    """
    found = find_job_server(folder)
    if found:
        return found
    if not shutil.which("mvn"):
        raise SetupError("Maven is missing: install it (Debian: apt install maven), or put a job server's jar into the folder")
    folder.mkdir(parents=True, exist_ok=True)
    kind, beam = KINDS[engine], version("apache-beam")
    published = kind.published.format(beam=beam)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        said = _maven(
            Path(work), "dependency:copy", f"-Dartifact={published}", f"-DoutputDirectory={work}", "-Dmdep.stripVersion=true"
        )
        if said is None:
            made = Path(work) / f"{published.split(':')[1]}.jar"
            found = JobServer(kind.engine, beam, "published")
        else:
            print(
                f"{published} cannot be had:\n  {said}\nputting together version {kind.old_beam} from its parts", file=sys.stderr
            )
            made = _assemble(kind, Path(work))
            found = JobServer(kind.old_engine, kind.old_beam, "assembled")
        os.replace(made, folder / JAR)
    (folder / ABOUT).write_text(json.dumps(asdict(found)) + "\n")
    return found


def _assemble(kind: _Kind, work: Path) -> Path:
    tags = ("groupId", "artifactId", "version")
    parts = [zip(tags, part.split(":"), strict=True) for part in kind.parts]
    dependencies = "".join(
        "<dependency>" + "".join(f"<{tag}>{text}</{tag}>" for tag, text in part) + "</dependency>" for part in parts
    )
    (work / "pom.xml").write_text(_POM.format(dependencies=dependencies, main_class=kind.main_class))
    said = _maven(work, "package")
    if said is not None:
        raise SetupError(f"Maven could not put together the job server from {', '.join(kind.parts)}:\n  {said}")
    return work / "target" / JAR


def _maven(work: Path, *arguments: str) -> str | None:
    """What went wrong, in a line, or None."""
    done = subprocess.run(["mvn", "-q", "-B", *arguments], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
    return (errors or done.stdout.splitlines() or [f"exit status {done.returncode}"])[0]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=sorted(KINDS))
    parser.add_argument("--folder", type=Path, help=f"where the jar goes (default: {CACHE}/ENGINE)")
    args = parser.parse_args(argv)
    folder = (args.folder or CACHE / args.engine).expanduser()
    try:
        found = make_job_server(args.engine, folder)
    except SetupError as error:
        print(f"job_server: {error}", file=sys.stderr)
        return 1
    print(f"{folder / JAR}\n{found.made}: Beam {found.beam}, {args.engine} {found.engine}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
