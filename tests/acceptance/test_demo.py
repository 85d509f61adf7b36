"""script/demo, as somebody who has just cloned the project runs it."""

import os
import subprocess

import pytest

from tests.fixtures.machine import CHECKOUT, need, series_and_kernel

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the files that git knows, changes included."""
    need("git", "apt-get")
    series_and_kernel()
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    pack = subprocess.run(
        ["tar", "-c", "--null", "-T", "-"], cwd=CHECKOUT, input=listed, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=folder, input=pack.stdout, check=True)
    return folder


def demo(clone, *args):
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        ["script/demo", *args], cwd=clone, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(("args", "name"), [((), "e1000e"), (("--offline-example",), "hello")])
def test_the_demo_makes_everything_and_then_skips_it(clone, args, name):
    first = demo(clone, *args)
    for made in (f"kmod-acme-{name}-1.0-1.k", ".src.rpm", f"{name}-modules-", ".deb", f"{name}-1.0.iso", "Next:"):
        assert made in first.stdout + first.stderr
    second = demo(clone, *args)
    assert "nothing to do: all" in second.stderr
    assert "ok " not in second.stderr
    assert second.stdout == first.stdout.replace(first.stdout.partition("build_deb")[0], "")
