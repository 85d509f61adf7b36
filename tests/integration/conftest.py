"""Fixtures of the integration tests."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.fixtures.aptrepo import Archive, Headers, headers


@pytest.fixture(scope="module")
def debs() -> Headers:
    """Real header packages."""
    return headers()


@pytest.fixture(scope="module")
def template(debs: Headers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published archive, to be copied."""
    archive = Archive(tmp_path_factory.mktemp("archive") / "debian")
    archive.add(*debs.files)
    archive.publish()
    return archive.folder


def _copy(source: str, destination: str) -> None:
    (os.link if source.endswith(".deb") else shutil.copy2)(source, destination)


@pytest.fixture
def archive(template: Path, tmp_path: Path) -> Archive:
    """A signed archive with dists/ and pool/."""
    shutil.copytree(template, tmp_path / "debian", copy_function=_copy)
    return Archive(tmp_path / "debian")
