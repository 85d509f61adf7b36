"""Showing the configuration: each value with its origin, as a project file, and as a JSON Schema."""

import datetime
import json
import tomllib

import pytest

from pkgkmod.config import layers
from pkgkmod.config.load import load
from pkgkmod.config.show import as_toml, schema, show
from pkgkmod.model.fields import Section
from pkgkmod.model.project import Project

TEXT = """\
[project]
name = "foo"
summary = 'a "b" \\ é'

[source]
directories = ["drivers/a", "include/b.h"]

[kconfig]
B = true
A = "m"

[[target]]
distro = "el9"
[[target]]
distro = "debian12"
kernels = ["6.1.0-*", "newest"]

[plugin.audit]
since = 2024-01-01
list = [1, [2, 3]]
table.deep = { x = 1.5 }
"""


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "SYSTEM_FILE", tmp_path / "none")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pkgkmod.toml"
    path.write_text(TEXT, encoding="utf-8")
    return load(path, overrides=["build.jobs=3"])


def test_every_key_is_there_with_its_value_and_origin(loaded):
    rows = {key: (value, where) for key, value, where in show(loaded)}
    assert rows["project.name"] == ('"foo"', "pkgkmod.toml:2")
    assert rows["source.directories"] == ('["drivers/a", "include/b.h"]', "pkgkmod.toml:6")
    assert rows["kconfig.B"] == ("true", "pkgkmod.toml:9")
    assert rows["target[2].kernels"] == ('["6.1.0-*", "newest"]', "pkgkmod.toml:16")
    assert rows["target[1].kernels"] == ('["newest"]', "built-in")
    assert rows["build.jobs"] == ("3", "-C")
    assert rows["project.vendor"] == ("-", "built-in")
    assert rows["plugin.audit.list"] == ("[1, [2, 3]]", "pkgkmod.toml:20")
    assert rows["plugin.audit.since"] == ("2024-01-01", "pkgkmod.toml:19")
    fixed = {
        f"{name}.{key}"
        for name, field in Project.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        for key in field.annotation.model_fields
    }
    assert fixed <= set(rows)


def test_every_value_is_toml_again(loaded):
    for key, value, _ in show(loaded):
        if value != "-":
            assert "x" in tomllib.loads(f"x = {value}"), key


def test_the_merged_project_file_reads_as_the_same_project(loaded, tmp_path):
    text = as_toml(loaded)
    again = load(_written(tmp_path / "again.toml", text))
    assert again.project == loaded.project
    assert again.project.plugin["audit"]["since"] == datetime.date(2024, 1, 1)
    assert again.project.build.jobs == 3


def _written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_the_schema_describes_every_key():
    made = json.loads(json.dumps(schema()))
    assert made["title"] == "pkgkmod project file"
    assert "$id" not in made
    assert made["required"] == ["project"]
    assert made["additionalProperties"] is False
    assert made["$defs"]["ProjectInfo"]["properties"]["name"]["examples"] == ["e1000e"]
    assert set(made["properties"]) == set(Project.model_fields)
    for name, model in made["$defs"].items():
        for key, facts in model["properties"].items():
            assert facts.get("description"), f"{name}.{key}"
