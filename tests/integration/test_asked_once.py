"""The compiler's answers about options, which are kept for the kernels of one run."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pkgkmod.modules.askedonce import ASKED_ONCE, give_option_answers, keep_option_answers
from tests.fixtures.machine import need

# As scripts/Kbuild.include and scripts/Makefile.compiler have it, in older kernels and today.
OLD = """TMPOUT = .tmp_$$$$
try-run = $(shell set -e; TMP=$(TMPOUT)/tmp; TMPO=$(TMPOUT)/tmp.o; mkdir -p $(TMPOUT); trap "rm -rf $(TMPOUT)" EXIT; \\
	if ($(1)) >/dev/null 2>&1; then echo "$(2)"; else echo "$(3)"; fi)
"""
NEW = """TMPOUT = .tmp_$$$$
try-run = $(shell set -e; TMP=$(TMPOUT)/tmp; trap "rm -rf $(TMPOUT)" EXIT; mkdir -p $(TMPOUT); \\
	if ($(1)) >/dev/null 2>&1; then echo "$(2)"; else echo "$(3)"; fi)
"""
QUESTIONS = """
__cc-option = $(call try-run,$(1) -Werror $(2) $(3) -c -x c /dev/null -o "$$TMP",$(3),$(4))
cc-option = $(call __cc-option, $(CC),$(FLAGS),$(1),$(2))
cc-disable-warning = $(call try-run,$(CC) -Werror $(FLAGS) -W$(strip $(1)) -c -x c /dev/null -o "$$TMP",\\
	-Wno-$(strip $(1)))
as-instr = $(call try-run,printf "%b\\n" "$(1)" | $(CC) -c -x assembler-with-cpp -o "$$TMP" -,$(2),$(3))
FLAGS = $(OPTIONS) -fmacro-prefix-map=$(TREE)/=
found := [$(call cc-option,-fno-common)] [$(call cc-option, -fno-such-option,-O1)]
found += [$(call cc-option,-Wa$(comma)--noexecstack)]
found += [$(call cc-disable-warning, unused-variable)] [$(call cc-disable-warning,no-such-warning)]
found += [$(call cc-option,-DX='a b')] [$(call cc-option,-DX=1|2)] [$(call cc-option,-DX=1~2)]
found += [$(call as-instr,nop,-DNOP)] [$(call as-instr,no such,-DNO,-DNONE)]
comma := ,
all:
	@echo '$(subst ','"'"',$(found))'
"""
KEPT, NOT_KEPT = 5, 5
"""Questions of these that are kept, and that are asked each time: they could be mistaken for others."""


@pytest.fixture
def tree(tmp_path):
    """Ask a real make and compiler what kbuild's macros ask; what reaches the compiler is counted."""
    need("gcc", "make")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\nexec gcc "$@"\n')
    compiler.chmod(0o755)
    answers = tmp_path / "answers"
    answers.mkdir()

    def run(name, *, form=NEW, questions=QUESTIONS, options="-m64", kept=True, keep=True):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "Makefile").write_text(form.replace("\\\\", "\\") + questions.replace("\\\\", "\\"))
        (tmp_path / "asked").write_text("")
        variables = give_option_answers(folder, answers) if kept else {}
        argv = ["make", "-s", f"CC={compiler}", f"TREE=/usr/src/{name}", f"OPTIONS={options}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | variables
        done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        if kept and keep:
            keep_option_answers(folder, answers)
        left = {file.name for file in folder.iterdir()} - {
            "Makefile",
            ASKED_ONCE,
            "pkgkmod-answers.mk",
            "pkgkmod-answers.new",
        }
        assert not left, "nothing else stays behind"
        return done.stdout, len((tmp_path / "asked").read_text().splitlines())

    return run


@pytest.mark.parametrize("form", [OLD, NEW])
def test_each_question_is_asked_once(tree, form):
    said, asked = tree("one", form=form, kept=False)
    assert "[-fno-common] [-O1]" in said
    assert "[-DNOP] [-DNONE]" in said
    assert asked == KEPT + NOT_KEPT
    assert tree("one", form=form) == (said, KEPT + NOT_KEPT)
    assert tree("two", form=form) == (said, NOT_KEPT), "whatever the kernel's folder is"
    assert tree("three", form=form, options="-m64 -O2") == (said, KEPT + NOT_KEPT), "other options are another question"
    assert tree("four", form=form, options="-O2 -m64") == (said, KEPT + NOT_KEPT), "so is another order"
    assert tree("five", form=form, options="-m64 -O2") == (said, NOT_KEPT)


def test_the_option_that_holds_the_kernels_folder_is_a_question_of_its_own(tree, tmp_path):
    """A compiler without it (gcc 7) was asked about the option before it, with the same flags."""
    ask = "FLAGS += -fno-common\nfound += [$(call cc-option,-fmacro-prefix-map=$(TREE)/,-DOLD)]\n"
    plain = QUESTIONS.replace(" -fmacro-prefix-map=$(TREE)/=\n", "\n").replace("comma :=", ask + "comma :=")
    said, _ = tree("one", questions=plain, kept=False)
    assert "[-fmacro-prefix-map=/usr/src/one/]" not in said
    assert "[-DOLD]" in said, "gcc refuses one without a second part"
    for name in ("one", "two"):
        assert tree(name, questions=plain)[0] == said


def test_what_a_failed_build_was_answered_is_not_kept(tree):
    tree("one", keep=False)
    assert tree("two")[1] == KEPT + NOT_KEPT


def test_answers_that_cannot_be_kept_are_no_harm(tree, tmp_path):
    said, _ = tree("one", kept=False)
    (tmp_path / "two/pkgkmod-answers.new").mkdir(parents=True)
    assert tree("two", keep=False)[0] == said
    shutil.rmtree(tmp_path / "two")
    keep_option_answers(tmp_path / "two", tmp_path / "answers")
    assert not list((tmp_path / "answers").iterdir())


def test_what_a_driver_writes_instead_of_answers_gets_nowhere(tmp_path):
    """A driver's makefiles are programs, and may write to any file of their build."""
    folder, answers = tmp_path / "build", tmp_path / "answers"
    folder.mkdir()
    answers.mkdir()
    hostile = [
        "all:; touch x",
        "answer/a := $(shell id)",
        "answer/a := known; b := c",
        "CC := evil",
        "endef",
        "\0\xff",
    ]
    (folder / "pkgkmod-answers.new").write_text("\n".join([*hostile, "answer/gcc|-m64 := known"]), encoding="latin-1")
    keep_option_answers(folder, answers)
    (kept,) = answers.iterdir()
    assert kept.read_text() == "answer/gcc|-m64 := known\n"


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero"), Path.mkdir])
def test_nothing_waits_for_what_is_no_file(tmp_path, make):
    make(tmp_path / "pkgkmod-answers.new")
    (tmp_path / "answers").mkdir()
    keep_option_answers(tmp_path, tmp_path / "answers")
    assert not list((tmp_path / "answers").iterdir())
