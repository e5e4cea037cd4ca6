"""The programs of a cluster, of fixed versions: Flink with Beam's job server, Prism, and an S3 server.

They come from Maven Central and the Go module proxy by `mvn` and `go`. Go holds modules against its checksum database;
the jars are held against `jars.sha256`.
"""

import hashlib
import os
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

import click

from pipelines.errors import RunError, UserError

HERE = Path(__file__).parent
GO_PROGRAMS = {
    "prism": "github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}
OPERATOR = "flink-kubernetes-operator-api"
OPERATOR_VERSION = "1.10.0"
OPERATOR_SHA256 = "b1f44814e17514fa8395c61b329a3ee9087123a5bda5b21fe1a495d5182c30b6"
_OPERATOR_SCHEMA = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the programs are.

    The jars lie in a folder of this name because Beam's job server sends all jars of its class path to Flink with every
    job, 156 MB, except those of a path with `gradle/wrapper` in it. Flink has them on its own class path here.
    """

    folder: Path

    @property
    def jars(self) -> Path:
        return self.folder / "gradle" / "wrapper"

    @property
    def prism(self) -> Path:
        return self.folder / "bin" / "prism"

    @property
    def operator_schema(self) -> Path:
        """What the Flink Kubernetes operator takes, as Kubernetes describes resources of others."""
        return self.folder / "flinkdeployments.yaml"

    @property
    def versitygw(self) -> Path:
        return self.folder / "bin" / "versitygw"


def fetch_parts(folder: Path) -> Parts:
    """Fetch what is missing in a folder; returns where everything is.

    Raises:
        UserError: If `mvn`, `go` or `java` is missing.
        RunError: If one of the first two fails, or a jar is not the one that is expected.
    """
    parts = Parts(folder.absolute())
    for name, module in GO_PROGRAMS.items():
        if not (parts.folder / "bin" / name).exists():
            _call(["go", "install", module], GOBIN=str(parts.folder / "bin"))
    _find("java")
    wanted = expected_jars()
    if any(not (parts.jars / name).exists() for name in wanted):
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={parts.jars}", "-DincludeScope=runtime"]
        _call(["mvn", "--quiet", "--batch-mode", "--strict-checksums", f"--file={HERE / 'pom.xml'}", *copy])
    found = hashes(parts.jars)
    if wrong := sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)):
        raise RunError(f"{parts.jars / wrong[0]}: is not the jar of jars.sha256; delete the folder and fetch it again")
    if not parts.operator_schema.exists():
        _fetch_operator_schema(parts)
    return parts


def _fetch_operator_schema(parts: Parts) -> None:
    artifact = f"-Dartifact=org.apache.flink:{OPERATOR}:{OPERATOR_VERSION}"
    _call(["mvn", "--quiet", "--batch-mode", "dependency:copy", artifact, f"-DoutputDirectory={parts.folder}"])
    jar = parts.folder / f"{OPERATOR}-{OPERATOR_VERSION}.jar"
    if hashlib.sha256(jar.read_bytes()).hexdigest() != OPERATOR_SHA256:
        raise RunError(f"{jar}: is not the jar that is expected; delete it and fetch it again")
    with zipfile.ZipFile(jar) as archive:
        parts.operator_schema.write_bytes(archive.read(_OPERATOR_SCHEMA))


@click.command("cluster-parts")
@click.option("--into", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the programs.")
def cluster_parts(folder: Path) -> None:
    """Fetch Flink with Beam's job server, Prism and an S3 server, for `make cluster-test` and for trying a cluster."""
    parts = fetch_parts(folder)
    print(f"{parts.folder}: {len(expected_jars())} jars, {', '.join(GO_PROGRAMS)}")


def expected_jars() -> dict[str, str]:
    """Return the sha256 of each jar by its name."""
    lines = (HERE / "jars.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of each jar in a folder by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.jar"))}


def _find(program: str) -> None:
    if shutil.which(program) is None:
        raise UserError(f"{program}: not found; install it first (Java 11 or 17, Maven 3, Go 1.24 or later)")


def _call(command: list[str], **variables: str) -> None:
    _find(command[0])
    done = subprocess.run(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "no reason was given")
        raise RunError(f"{' '.join(command[:3])}: {last.strip()}")
