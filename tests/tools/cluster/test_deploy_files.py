"""The files for real clusters are valid: by Kubernetes' own schemas, by Beam's and our own options, by the shell."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.__main__ import commands
from tests.sources import ROOT
from tools.cluster.parts import Parts
from trainer.__main__ import commands as trainer_commands

DEPLOY = ROOT / "tools" / "cluster" / "deploy"
SCHEMA = Parts(ROOT / "build" / "cluster").operator_schema
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
DOCKERFILES = sorted(DEPLOY.glob("*.Dockerfile"))
MANIFESTS = sorted(DEPLOY.glob("*.yaml"))
ENVIRONMENT = {  # of the scripts
    "SPEC": "corpus_specs/demo.yaml",
    "OUT": "gs://bucket/corpus",
    "PROJECT": "p",
    "REGION": "r",
    "IMAGE": "i",
    "MASTER": "spark://m:7077",
    "WORKERS": "8",
    "SLURM_JOB_ID": "1",
    "SLURM_CPUS_PER_TASK": "4",
}


def resources(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def own(path: Path) -> dict[str, Any]:
    """Return the only resource of a file that is not one of Kubernetes itself."""
    (found,) = (each for each in resources(path) if each["apiVersion"].startswith("flink."))
    return found


# --- Kubernetes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_resources_are_what_kubernetes_takes(path: Path):
    checked = [each for each in resources(path) if not each["apiVersion"].startswith("flink.")]
    assert checked
    for each in checked:
        kubernetes_validate.validate(each, "1.31", strict=True)
    pods = [each["spec"]["template"]["spec"] for each in checked if "template" in each["spec"]]
    assert pods


def closed(schema: Any) -> Any:
    """Return a schema that refuses unknown keys, which Kubernetes drops without a word."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


@pytest.mark.nightly
@pytest.mark.skipif(not SCHEMA.exists(), reason="the operator's schema is not at hand: `make cluster-parts` fetches it")
def test_the_flink_deployment_is_what_the_operator_takes():
    (version,) = yaml.safe_load(SCHEMA.read_text())["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    for name in ("apiVersion", "kind", "metadata"):
        schema["properties"][name] = {}
    jsonschema.validate(own(DEPLOY / "flink_operator.yaml"), closed(schema))


def test_the_deployments_flink_is_set_as_the_shipped_configuration_says():
    shipped = yaml.safe_load((DEPLOY.parent / "flink-conf.yaml").read_text())
    deployed = own(DEPLOY / "flink_operator.yaml")["spec"]["flinkConfiguration"]
    assert all(isinstance(value, str) for value in deployed.values()), "Flink's operator takes texts only"
    here = {name: str(value) for name, value in shipped.items() if name != "jobmanager.retrieve-taskmanager-hostname"}
    assert deployed == here


def test_the_worker_pool_beside_a_task_manager_is_a_command_of_ours():
    spec = own(DEPLOY / "flink_operator.yaml")["spec"]["taskManager"]["podTemplate"]["spec"]
    (container,) = spec["containers"]
    name, *arguments = container["args"]
    commands.commands[name].make_context(name, list(arguments))


def test_the_trainers_job_calls_it_as_it_is():
    (job,) = (each for each in resources(DEPLOY / "trainer_job.yaml") if each["kind"] == "Job")
    name, *arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    trainer_commands.commands[name].make_context(name, list(arguments))
    assert (ROOT / arguments[arguments.index("--config") + 1]).exists()


# --- scripts --------------------------------------------------------------------------------------------------------


def called_by(script: Path, tmp_path: Path, **environment: str) -> list[str]:
    """Return the arguments with which a script calls Python."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(script)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_calls_a_command_with_options_that_it_and_beam_have(script: Path, tmp_path: Path):
    package, module, name, *arguments = called_by(script, tmp_path, **ENVIRONMENT)
    assert (package, module) == ("-m", "pipelines")
    context = commands.commands[name].make_context(name, list(arguments))
    options = PipelineOptions(list(context.params["beam_options"]))
    known, found = options.get_all_options(), options.get_all_options(retain_unknown_options=True)
    assert not found.keys() - known.keys()
    assert context.params["workers"] in (4, 8)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_missing_setting_is_named(script: Path):
    done = subprocess.run(
        ["bash", str(script)], cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert done.returncode
    assert "SPEC" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_of_fixed_versions_and_of_files_that_are_there(path: Path):
    lines = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    for name, *words in steps:
        if name == "FROM":
            assert re.fullmatch(r"[\w/.-]+:\d[\w.-]*", words[0]), "an image of a fixed version"
        if name == "COPY" and not words[0].startswith("--from"):
            *sources, _ = words
            assert all(source.startswith("build/") or (ROOT / source).exists() for source in sources)
    assert f"-f {path.relative_to(ROOT)}" in path.read_text()


def test_the_workers_beam_is_that_of_the_lock():
    lock = (ROOT / "requirements" / "crawl.lock").read_text()
    version = re.search(r"^apache-beam==(\S+)", lock, re.MULTILINE)[1]
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    image = (DEPLOY / "corpus.Dockerfile").read_text()
    assert f"apache/beam_python{python}_sdk:{version}" in image
    assert f"FROM python:{python}-" in image
