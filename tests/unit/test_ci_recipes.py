"""The recipes for CI: what the page shows is what the files hold, and they are what their systems read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs import parse

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples/ci").iterdir())


def scripts(file: Path) -> list[str]:
    """Return the shell lines of a recipe."""
    text = file.read_text("utf-8")
    if file.suffix == ".yml":
        found = yaml.safe_load(text)
        return [line for job in jobs(found) for line in job]
    return re.findall(r"^\s*sh '(.*)'$", text, re.MULTILINE)


def jobs(found: dict[str, Any]) -> list[list[str]]:
    if "jobs" in found:
        return [[step["run"] for step in job["steps"] if "run" in step] for job in found["jobs"].values()]
    return [job["script"] for job in found.values()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recipe_builds_by_commands_that_exist(file):
    lines = scripts(file)
    assert any(line.startswith("pkgkmod build ") for line in lines)
    for line in lines:
        parse(line)
        assert subprocess.run(["sh", "-n", "-c", line], check=False).returncode == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_page_shows_the_files(file):
    assert f"```{'groovy' if file.name == 'Jenkinsfile' else 'yaml'}\n{file.read_text('utf-8')}```" in (
        ROOT / "docs/how-to/ci.md"
    ).read_text("utf-8")


def test_the_workflow_of_github_is_what_its_schema_asks_for():
    found = yaml.safe_load((ROOT / "examples/ci/github-actions.yml").read_text("utf-8"))
    assert set(found) == {"name", True, "jobs"}  # YAML 1.1 takes the key `on` for true; GitHub does not
    for job in found["jobs"].values():
        assert {"runs-on", "steps"} <= set(job)
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_the_pipeline_of_jenkins_is_balanced():
    text = re.sub(r"//.*|'[^'\n]*'|\"[^\"\n]*\"", "", (ROOT / "examples/ci/Jenkinsfile").read_text("utf-8"))
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and text.split("{")[0].strip() == "pipeline"
