"""The compiler's answers about options, which are kept for the kernels of one run."""

import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from pkgkmod import data
from pkgkmod.modules.compile import ASKED_ONCE
from tests.fixtures.machine import need


@pytest.fixture
def ask(tmp_path):
    """Ask the real compiler through the wrapper; what reaches the compiler is written down."""
    need("gcc")
    wrapper, compiler = tmp_path / ASKED_ONCE, tmp_path / "compiler"
    shutil.copy(str(files(data).joinpath("build", ASKED_ONCE)), wrapper)
    compiler.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\nexec gcc "$@"\n')
    for path in (wrapper, compiler):
        path.chmod(0o755)
    (tmp_path / "answers").mkdir()
    environment = {**os.environ, "PKGKMOD_CC": str(compiler), "PKGKMOD_ANSWERS": str(tmp_path / "answers")}

    def run(*words):
        (tmp_path / "asked").unlink(missing_ok=True)
        done = subprocess.run([wrapper, *words], env=environment, cwd=tmp_path, capture_output=True)
        asked = tmp_path / "asked"
        return done.returncode, len(asked.read_text().splitlines()) if asked.exists() else 0

    return run


def question(option, output="out", prefix="/usr/src/one"):
    """The words of kbuild's cc-option (scripts/Makefile.compiler)."""
    return ("-Werror", f"-fmacro-prefix-map={prefix}/=", "-m64", option, "-c", "-x", "c", "/dev/null", "-o", output)


def test_each_question_is_asked_once(ask, tmp_path):
    assert ask(*question("-fno-common")) == (0, 1)
    assert ask(*question("-fno-common", "other", "/usr/src/two")) == (0, 0), "whatever the kernel's folder is"
    assert (tmp_path / "other").exists()
    assert ask(*question("-fno-such-option")) == (1, 1)
    assert ask(*question("-fno-such-option", "other")) == (1, 0)
    assert ask(*question("-fno-common -O2")) == (1, 1), "one word is not two"
    assert ask("-O2", *question("-fno-common")) == (0, 1), "other options are another question"


def test_everything_else_goes_to_the_compiler(ask, tmp_path):
    (tmp_path / "a.c").write_text("int main(void) { return 0; }\n")
    for _ in range(2):
        assert ask("-c", "-o", "a.o", "a.c") == (0, 1)
        assert ask("--version") == (0, 1)


def test_answers_that_cannot_be_kept_are_no_harm(ask, tmp_path):
    shutil.rmtree(tmp_path / "answers")
    (tmp_path / "answers").write_text("a file is in the way")
    for _ in range(2):
        assert ask(*question("-fno-common")) == (0, 1)
        assert ask(*question("-fno-such-option")) == (1, 1)
    assert Path(tmp_path / "answers").is_file()
