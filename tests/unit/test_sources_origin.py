"""What may stand in `source.repository`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkgkmod.errors import SourceError
from pkgkmod.sources.gitcommand import without_credentials
from pkgkmod.sources.repository import parse_origin


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linux").mkdir()
    (tmp_path / "host:x").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for location in ("linux", "./linux", str(tmp_path / "linux"), "~/linux", f"file://{tmp_path}/linux"):
        origin = parse_origin(location, tmp_path)
        assert (origin.is_remote, origin.path) == (False, tmp_path / "linux"), location
    assert parse_origin("host:x", tmp_path).path == tmp_path / "host:x"


@pytest.mark.parametrize(
    "location",
    [
        "https://git.example.org/linux.git",
        "http://127.0.0.1:8080/x",
        "ssh://packager@example.org:22/linux",
        "git://example.org/linux",
        "packager@example.org:linux.git",
        "example.org:linux.git",
        "https://[::1]/x",
    ],
)
def test_remote(location: str, tmp_path: Path) -> None:
    origin = parse_origin(location, tmp_path)
    assert (origin.is_remote, origin.path, origin.location) == (True, None, location)


@pytest.mark.parametrize(
    "location",
    [
        "ext::sh -c touch% /tmp/x",
        "fd::3",
        "transport::address",
        "--upload-pack=touch x",
        "-x",
        "ssh://-oProxyCommand=touch/x",
        "ssh://user@-oProxyCommand=touch/x",
        "-oProxyCommand=x:y",
        "user@-oProxyCommand=x:y",
        "ftp://example.org/x",
        "https://example.org/a b",
        "https://example.org/\nx",
        "file:///nonexistent/linux",
        "file://elsewhere/linux",
        "nonexistent",
        "",
    ],
)
def test_refused(location: str, tmp_path: Path) -> None:
    base = tmp_path if location else tmp_path / "nonexistent"
    with pytest.raises(SourceError) as caught:
        parse_origin(location, base)
    assert caught.value.hint
    assert "\n" not in caught.value.brief


def test_credentials_are_not_shown(tmp_path: Path) -> None:
    origin = parse_origin("https://user:pass%40word@example.org/linux.git", tmp_path)
    assert origin.shown == "https://example.org/linux.git"
    assert (
        without_credentials("fatal: 'ssh://u@h/x' and https://a:b@c/d?e=f@g")
        == "fatal: 'ssh://h/x' and https://c/d?e=f@g"
    )
    with pytest.raises(SourceError) as caught:
        parse_origin("ftp://user:secret@example.org/x", tmp_path)
    assert "secret" not in str(vars(caught.value))
