"""Fixtures that are shared by all tests of a session."""

import tempfile

import pytest

from tests.fixtures import machine


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory):
    """Keep what module fixtures build out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache-of-the-session")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(autouse=True)
def _cache_of_the_test(monkeypatch, _cache_of_the_session):
    """Let every test begin with an empty cache: results of one must not serve another."""
    # Not pytest's mktemp, which looks at all folders that it made before.
    monkeypatch.setenv("XDG_CACHE_HOME", tempfile.mkdtemp(prefix="test-", dir=_cache_of_the_session))


@pytest.fixture(scope="session")
def kernel():
    """The newest installed kernel headers of the series that the distribution's kernel sources have."""
    return machine.series_and_kernel()[1]


@pytest.fixture(scope="session")
def e1000e():
    """The real e1000e driver in a git repository."""
    return machine.e1000e()


@pytest.fixture
def hello(tmp_path):
    """The example driver in a git repository."""
    return machine.hello(tmp_path / "hello-repository")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, e1000e, kernel):
    """A project of the real driver in which everything was built, as a user would."""
    folder = machine.project(tmp_path_factory.mktemp("e1000e"), e1000e, kernel)
    for command in ("generate_spec", "build_rpm", "build_deb", "build_iso", "build"):
        machine.pkgkmod(command, cwd=folder)
    return folder
