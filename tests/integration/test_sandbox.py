"""A driver whose makefile misbehaves: what it tries must not work, and must not matter."""

import os
from pathlib import Path

import pytest

from tests.fixtures.machine import commit, pkgkmod, project

NAUGHTY = """
obj-$(CONFIG_HELLO) += hello.o
hello-y := main.o
$(shell echo "id $$(id -u)" > $(M)/said; \\
  (touch /etc/pkgkmod-was-here || touch /usr/src/pkgkmod-was-here || touch %(outside)s/pkgkmod-was-here) 2>/dev/null \\
    && echo wrote >> $(M)/said; \\
  ls -A $$(getent passwd 0 | cut -d: -f6) 2>/dev/null | grep -q . && echo saw root >> $(M)/said; \\
  (: < /dev/tcp/127.0.0.1/1) 2>/dev/null; ls /sys/class/net >> $(M)/said; \\
  cat /proc/net/dev | grep -c : >> $(M)/said; \\
  env | grep SECRET >> $(M)/said; \\
  cat $(M)/said >&2)
"""


def test_a_makefile_reaches_neither_network_nor_files_nor_secrets(tmp_path, hello, kernel):
    (hello.repository / hello.directory / "Makefile").write_text(NAUGHTY % {"outside": tmp_path})
    commit(hello.repository, "naughty")
    folder = project(tmp_path / "project", hello, kernel, prepare=False)
    where = ("-g", hello.repository, "-r", "main", "-d", hello.directory)
    pkgkmod("prepare_sources", *where, cwd=folder)
    pkgkmod("build_modules", cwd=folder, SECRET="hunter2")
    (log,) = (folder / "results").glob("build_modules/*/*/*/log.txt")
    said = log.read_text()
    assert "id " in said, "the makefile did run"
    if os.geteuid() == 0:
        assert "id 0" not in said
    for word in ("wrote", "saw root", "hunter2"):
        assert word not in said
    assert not any(Path(p, "pkgkmod-was-here").exists() for p in ("/etc", "/usr/src", tmp_path))
    devices = [line for line in said.splitlines() if line.isdigit()]
    assert devices, said
    assert set(devices) == {"1"}, "the loopback device alone"


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone steps down")
def test_the_build_folder_is_taken_back(tmp_path, hello, kernel):
    folder = project(tmp_path / "project", hello, kernel)
    pkgkmod("build", cwd=folder)
    assert {path.stat().st_uid for path in folder.rglob("*")} == {0}
