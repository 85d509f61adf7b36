"""The report about a driver that builds on another one, both compiled for a real kernel."""

import shutil
from pathlib import Path

import pytest

from tests.fixtures.machine import CHECKOUT, commit, pkgkmod


@pytest.fixture(scope="module")
def bar(tmp_path_factory, kernel):
    """The project bar, which requires foo; the modules of both are built."""
    folder = tmp_path_factory.mktemp("foobar") / "foobar"
    shutil.copytree(CHECKOUT / "examples/foobar", folder)
    commit(folder)
    for name in ("foo", "bar"):
        project = folder / "two" / name
        file = project / "pkgkmod.toml"
        file.write_text(file.read_text().replace('["newest"]', f'["{kernel}"]'))
        pkgkmod("build_modules" if name == "foo" else "build_deb", cwd=project)
    return folder / "two/bar"


@pytest.fixture(scope="module")
def page(bar):
    done = pkgkmod("report", cwd=bar)
    assert "results/report.html: 1 kernel, 1 module; " in done.out
    return (bar / "results/report.html").read_text()


def test_the_kernel_is_predicted_to_load_what_was_built_for_it(page, kernel):
    assert f'<th scope="row" data-v="1"><a href="#k1">{kernel}</a></th><td data-v="2" class="good">' in page
    assert "all made" in page
    assert "after foo" in page


def test_what_the_driver_builds_on_is_in_the_drawing(page):
    assert '<g class="is-own">' in page and '<g class="is-provider">' in page
    assert "<code>bar</code> needs <code>foo</code>, of foo" in page


def test_the_files_of_the_package_are_listed_with_their_digests(page, bar, kernel):
    (package,) = bar.glob(f"results/build_deb/*/*/*/bar-modules-{kernel}_*.deb")
    assert f"<code>{package.name}</code>" in page
    assert str(bar) not in page


def test_the_same_results_make_the_same_file(page, bar):
    pkgkmod("report", "-o", "again.html", cwd=bar, TZ="America/New_York", COLUMNS="40")
    assert (bar / "again.html").read_text() == page
    assert pkgkmod("report", "-o", "-", "--quiet", cwd=bar).out == page


def test_other_kernels_are_asked_about_the_modules_that_are_there(bar, kernel):
    others = sorted(path.parent.name for path in Path("/lib/modules").glob("*/build") if path.parent.name != kernel)
    assert others
    pkgkmod("report", "--kernels", others[-1], "-o", "other.html", cwd=bar)
    page = (bar / "other.html").read_text()
    assert f"<small>modules of {kernel}</small>" in page
    pkgkmod("report", "--kernels", others[-1], "--no-predict", "-o", "other.html", cwd=bar)
    assert f"modules of {kernel}" not in (bar / "other.html").read_text()


def test_programs_are_told_in_json(bar):
    (event,) = [one for one in pkgkmod("report", "--json", cwd=bar).events if one["event"] == "report"]
    assert event.pop("size") == len((bar / "results/report.html").read_bytes())
    assert event.pop("file") == str(bar / "results/report.html")
    assert event == {
        "event": "report",
        **{"kernels": 1, "modules": 1, "failures": 0},
        **{"errors": 0, "warnings": 0, "notes": 0},
    }


def test_the_page_is_shown_in_the_browser_of_the_user(bar, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/shown\n')
    browser.chmod(0o755)
    pkgkmod("report", "--open", cwd=bar, BROWSER=str(browser))
    assert (tmp_path / "shown").read_text() == f"file://{bar}/results/report.html\n"


def test_mistakes_are_explained(bar, tmp_path):
    assert "did you mean" in pkgkmod("report", "--no-predikt", cwd=bar, code=2).err.lower()
    assert "nearest: " in pkgkmod("report", "--kernels", "6.1.0-99-amd64", cwd=bar, code=6).err
    done = pkgkmod("report", "-o", "gone/report.html", cwd=bar, code=17)
    assert "there is no folder gone" in done.err
    assert "is a folder" in pkgkmod("report", "-o", "results", cwd=bar, code=17).err
    pkgkmod("init", "--name", "x", cwd=tmp_path)
    assert "nothing has been made yet" in pkgkmod("report", cwd=tmp_path, code=2).err
