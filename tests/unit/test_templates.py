from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pkgkmod.errors import ConfigError
from pkgkmod.templates import Templates, built_in, deb_text, make_text, rpm_line, rpm_text, shell_word

FOREIGN = "%{#} ${@#-} ${@%/} ${#x} @# @% {{ x }} {% if %} {# no comment #} %{?x:y}\n\t@echo $@ $(X:%.c=%.o) {%\n"


def templates(folder: Path, **files: str) -> Templates:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return Templates("spec-templates", folder)


def test_macros_shell_and_make_are_left_alone(tmp_path: Path) -> None:
    assert templates(tmp_path, t=FOREIGN).render("t", {}) == FOREIGN


def test_our_own_delimiters(tmp_path: Path) -> None:
    text = "@@# a comment #@@\n@@% if yes %@@\n  @@{ name }@@ @@{ name | rpm }@@\n@@% endif %@@\nend\n"
    assert templates(tmp_path, t=text).render("t", {"yes": True, "name": "50%"}) == "  50% 50%%\nend\n"


def test_undefined_value_names_template_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        templates(tmp_path, t="one\ntwo @@{ nothing }@@\n").render("t", {})
    assert caught.value.brief.startswith(f"{tmp_path}/t:2:")
    assert "nothing" in caught.value.details


def test_syntax_error_names_template_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        templates(tmp_path, t="one\n\n@@% if %@@\n").render("t", {})
    assert caught.value.brief.startswith(f"{tmp_path}/t:3:")


def test_unknown_template() -> None:
    with pytest.raises(ConfigError) as caught:
        Templates("spec-templates").text("kmod.spc.j2")
    assert "kmod.spec.j2" in caught.value.hint


def test_own_template_wins_and_others_stay_built_in(tmp_path: Path) -> None:
    own = templates(tmp_path, kmod__spec__j2="mine\n")
    assert own.render("kmod.spec.j2", {}) == "mine\n"
    assert Templates("debian-templates", tmp_path).text("rules.j2") == Templates("debian-templates").text("rules.j2")


def test_checkout_is_read_in_place() -> None:
    assert str(built_in("spec-templates")) == str(Path(__file__).parents[2] / "spec-templates")


def test_digest_covers_what_is_included(tmp_path: Path) -> None:
    one = templates(tmp_path, a='@@% include "b" %@@\n', b='@@%- extends "c" %@@', c="1", d="unrelated")
    before = one.digest("a")
    (tmp_path / "d").write_text("changed")
    assert one.digest("a") == before
    (tmp_path / "c").write_text("2")
    assert one.digest("a") != before


def test_jinja_is_loaded_only_to_render() -> None:
    code = (
        "import sys, pkgkmod.templates as t; t.Templates('spec-templates').digest('kmod.spec.j2');"
        "print('jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (rpm_line, "a\nb\t %(id) ", "a b %%(id)"),
        (rpm_line, "a\\%{b", "a\\%{nil}%%{b"),
        (rpm_text, "%files\n  %if 1\n#x\nplain %{x} \n", "- %%files\n  - %%if 1\n- #x\nplain %%{x}"),
        (make_text, "$(shell id) # x\ny", "$$(shell id) \\# x y"),
        (shell_word, "it's $(id)", "'it'\"'\"'s $(id)'"),
        (deb_text, "one\n\n.two\n three", " one\n .\n  .two\n  three"),
    ],
)
def test_escaping(function: object, text: str, expected: str) -> None:
    assert callable(function)
    assert function(text) == expected
