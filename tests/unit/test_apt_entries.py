"""Entries of sources.list, versions, and the pieces of an apt archive that need no archive."""

from __future__ import annotations

import io
import itertools
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkgkmod.errors import KernelError, PluginError
from pkgkmod.kernels import apt, aptindex, aptsources
from pkgkmod.kernels.aptindex import Need, parse_packages, version_key
from pkgkmod.kernels.aptrelease import AptRelease, _check_frame, _unsigned
from pkgkmod.kernels.aptsources import AptEntry, machine_entries, parse_line
from pkgkmod.progress import Progress
from tests.fixtures.gitrepos import Listener
from tests.fixtures.machine import need

NATIVE = subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()
pytestmark = pytest.mark.skipif(NATIVE != "x86_64", reason="written for amd64")
ARMORED = """-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEZdEn
=abcd
-----END PGP PUBLIC KEY BLOCK-----
"""


@pytest.fixture
def etc(tmp_path, monkeypatch):
    """An /etc/apt of the test's own."""
    folder = tmp_path / "etc-apt"
    (folder / "sources.list.d").mkdir(parents=True)
    monkeypatch.setattr(aptsources, "ETC", folder)
    return folder


def entries(listener: Progress | None = None) -> list[AptEntry]:
    return list(machine_entries(listener or Progress()))


def test_a_line_with_all_that_it_can_have():
    entry = parse_line(
        "deb [ arch=amd64,arm64 signed-by=keys/a.gpg,0x" + "ab" * 20 + "! check-valid-until=no ] "
        "http://deb.debian.org/debian/ bookworm-updates main contrib",
        Path("/project"),
    )
    assert entry == AptEntry(
        uri="http://deb.debian.org/debian",
        suite="bookworm-updates",
        components=("main", "contrib"),
        arches=("amd64", "arm64"),
        signed_by=("/project/keys/a.gpg", "AB" * 20 + "!"),
        check_valid_until=False,
    )
    assert entry.release_folder == "http://deb.debian.org/debian/dists/bookworm-updates/"
    assert not entry.is_flat


@pytest.mark.parametrize(
    ("text", "release_folder"),
    [
        ("deb [trusted=yes] file:/srv/debs ./", "file:///srv/debs/"),
        ("deb file:///srv/debs /", "file:///srv/debs/"),
        ("deb copy:/srv/debs some/folder/", "file:///srv/debs/some/folder/"),
        ("deb HTTPS://example.org/x/ stable/updates main", "https://example.org/x/dists/stable/updates/"),
        ("deb\thttp://example.org/$(ARCH)  dists/$(ARCH)/", "http://example.org/$(ARCH)/dists/amd64/"),
    ],
)
def test_addresses(text, release_folder):
    if "\t" in text:
        with pytest.raises(ValueError, match="expected"):
            parse_line(text)
        text = text.replace("\t", " ")
    assert parse_line(text).release_folder == release_folder


def test_an_entry_reads_the_same_from_its_own_line():
    for text in (
        "deb [arch=amd64 signed-by=/a.gpg,/b.asc trusted=yes check-valid-until=no] http://example.org/d s/u main x/y",
        "deb [signed-by=/a.gpg] file:/srv ./",
    ):
        entry = parse_line(text)
        assert parse_line(entry.line) == entry
        assert parse_line(entry.line).key == entry.key


def test_who_is_believed_is_part_of_what_is_kept():
    lines = ("", "[trusted=yes]", "[signed-by=/a.gpg]", "[arch=arm64]", "[check-valid-until=no]")
    keys = {parse_line(f"deb {options} http://example.org/d s main").key for options in lines}
    assert len(keys) == len(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("deb-src http://example.org/d s main", "expected"),
        ("deb http://example.org/d", "expected"),
        ("http://example.org/d s main", "expected"),
        ("deb http://example.org/d s", "needs components"),
        ("deb http://example.org/d s/ main", "needs components"),
        ("deb http://example.org/d s\x1b[2J main", "expected"),
        ("deb http://example.org/d s main\ndeb http://evil.example.org/ s main", "expected"),
        ("deb http://exam\x00ple.org/d s main", "expected"),
        ("deb http://exämple.org/d s main", "is not an address"),
        ("deb http://example.org/../d s main", "has '..' in it"),
        ("deb http://example.org/%2e%2e/d s main", "has '..' in it"),
        ("deb http://example.org/d ../../x main", "cannot be the name"),
        ("deb http://example.org/d s ../x", "cannot be the name"),
        ("deb http://example.org/d s ma;in", "cannot be the name"),
        ("deb http://example.org/d ../", "cannot be the name"),
        ("deb ftp://example.org/d s main", "is not an address"),
        ("deb cdrom:[Debian]/ s main", "is not an address"),
        ("deb ssh:host:/d s main", "is not an address"),
        ("deb http://[::1/d] s main", "expected|Invalid IPv6"),
        ("deb http://[x]/d s main", "does not appear|Invalid"),
        ("deb file:debs ./", "no absolute path"),
        ("deb file://host/debs ./", "no absolute path"),
        ("deb [arch=vax] http://example.org/d s main", "'vax' is not known"),
        ("deb [trusted] http://example.org/d s main", "is not NAME=VALUE"),
        ("deb [trusted=perhaps] http://example.org/d s main", "yes or no"),
        ("deb [trusted=no] http://example.org/d s main", "not to be believed"),
        ("deb [allow-insecure=yes] http://example.org/d s main", "allow-insecure is not supported"),
        ("deb [allow-weak=yes] http://example.org/d s main", "allow-weak is not supported"),
        ("", "expected"),
        ("deb", "expected"),
        ("deb [", "expected"),
    ],
)
def test_lines_that_are_refused(text, reason):
    with pytest.raises(ValueError, match=reason.replace(".", r"\.")):
        parse_line(text)


_PIECES = st.sampled_from(
    (
        *("[", "]", "[arch=amd64]", "[trusted=yes]", "[signed-by=../x]", "http:", "file:", "//", "/", "../", ".."),
        *(" ", "  ", "s", "main", "./", "a b", "\n", "\t", "\x1b[2J", "\x85", "ä", "$(ARCH)", "%2e"),
        "http://example.org/d s main",
    )
)


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_any_line_is_refused_or_leads_nowhere_odd(text):
    try:
        entry = parse_line("deb " + text)
    except ValueError:
        return
    assert "\n" not in entry.line and entry.line.isprintable()
    assert ".." not in entry.release_folder.replace("%2e", ".").split("/")
    assert entry.uri.startswith(("http:", "https:", "file:///"))
    assert parse_line(entry.line) == entry


def test_sources_list_of_the_machine(etc):
    (etc / "sources.list").write_text(
        "# deb http://example.org/commented s main\n"
        "deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - Official amd64 DVD]/ bookworm main\n"
        "deb\thttp://example.org/one\ts main # [a comment\n"
        "deb-src http://example.org/one s main\n"
        "deb [arch=amd64] http://example.org/two s main contrib\n\n"
        "deb-nonsense\n"
        "deb ftp://example.org/three s main\n"
    )
    (etc / "sources.list.d" / "b.list").write_text("deb http://example.org/four s main\n")
    (etc / "sources.list.d" / "a.list.disabled").write_text("deb http://example.org/five s main\n")
    (etc / "sources.list.d" / "x y.list").write_text("deb http://example.org/six s main\n")
    listener = Listener()
    assert [entry.uri.rpartition("/")[2] for entry in entries(listener)] == ["one", "two", "four"]
    (warning,) = listener.warnings
    assert "ftp://example.org/three" in warning and "is left out" in warning


def test_sources_files_of_the_machine(etc):
    (etc / "sources.list.d" / "all.sources").write_text(
        "# a comment\n"
        "Types: deb deb-src\n"
        "URIs: http://example.org/one\n"
        "  http://example.org/two\n"
        "Suites: s s-updates\n"
        "# a comment between\n"
        "Components: main\n"
        "  contrib\n"
        "Architectures: amd64\n"
        "Signed-By: /usr/share/keyrings/a.gpg\n"
        "\n"
        "Enabled: no\nTypes: deb\nURIs: http://example.org/off\nSuites: s\nComponents: main\n"
        "\n"
        "Types: deb-src\nURIs: http://example.org/source\nSuites: s\nComponents: main\n"
        "\n"
        "types: deb\nuris: file:/srv/flat\nsuites: ./\ntrusted: Yes\n"
        "\n"
        "Types: deb\nURIs: cdrom:[x] http://example.org/../x\nSuites: s\nComponents: main\n"
    )
    listener = Listener()
    found = entries(listener)
    assert [(entry.uri, entry.suite) for entry in found] == [
        ("http://example.org/one", "s"),
        ("http://example.org/one", "s-updates"),
        ("http://example.org/two", "s"),
        ("http://example.org/two", "s-updates"),
        ("file:///srv/flat", "./"),
    ]
    assert found[0].components == ("main", "contrib") and found[0].signed_by == ("/usr/share/keyrings/a.gpg",)
    assert found[4].trusted and not found[0].trusted
    assert any("example.org/../x" in warning for warning in listener.warnings)
    # The second time, python-debian is not needed.
    assert entries() == found


def test_a_key_in_a_sources_file(etc):
    indented = "".join(f" {line or '.'}\n" for line in ARMORED.splitlines())
    (etc / "sources.list.d" / "own.sources").write_text(
        f"Types: deb\nURIs: http://example.org/d\nSuites: s\nComponents: main\nSigned-By:\n{indented}"
    )
    (entry,) = entries()
    (key,) = entry.signed_by
    assert Path(key).read_text() == ARMORED
    assert entries() == [entry]


def test_a_broken_sources_file_does_not_stop_the_others(etc):
    (etc / "sources.list.d" / "a.sources").write_text("no field at all\n\x00\xff\n")
    (etc / "sources.list.d" / "b.sources").write_bytes(b"Types: deb\n\xff\xfe\n")
    (etc / "sources.list.d" / "c.list").write_text("deb http://example.org/d s main\n")
    assert [entry.uri for entry in entries(Listener())] == ["http://example.org/d"]


def test_settings_name_the_entry_that_is_wrong():
    with pytest.raises(PluginError, match=r"plugin\.apt\.archives\[2\]: .* not an address") as caught:
        apt._entries({"archives": ["deb http://example.org/d s main", "deb ftp://x/ s main"]}, Path("/"), Progress())
    assert caught.value.hint
    with pytest.raises(PluginError, match=r"plugin\.apt\.archive: "):
        apt._entries({"archive": []}, Path("/"), Progress())
    with pytest.raises(PluginError, match=r"plugin\.apt\.archives"):
        apt._entries({"archives": "machine"}, Path("/"), Progress())


def test_machine_stands_for_the_archives_of_the_machine(etc):
    (etc / "sources.list").write_text("deb http://example.org/d s main\ndeb http://example.org/e s main\n")
    asked = apt._entries({"archives": ["machine", "deb http://example.org/d s main"]}, Path("/"), Progress())
    assert [(one.entry.uri[-1], one.by_name) for one in asked] == [("d", True), ("e", False)]


# Versions -------------------------------------------------------------------------------------------------------------

VERSIONS = (
    *("0", "1", "1.0", "1.00", "01.0", "1.0-0", "1.0-1", "1.0-1.1", "1.0-10", "1.0-2", "1.0-a", "1.0+1"),
    *("1.0~", "1.0~~", "1.0~~a", "1.0~a", "1.0~rc1-1", "1.0a", "1.0a1", "1.0.", "1.0..", "1.0-1~bpo12+1", "1:0", "0:1"),
    *("2:0.1", "1.2.3-4-5", "1.2.3-4~5", "1.2.3-4+5", "1a", "1A", "1.a", "1~1", "1+", "1-0+", "1:1.0-1"),
    *("6.1.192-2", "6.1.192-1", "6.12.117-1~deb12u1", "6.12.117-1", "6.12.117-1~bpo12+1", "7.2~rc3-1~exp1", "7.2-1"),
    *("5.15.0-100.110", "5.15.0-99.109", "5.15.0-100.110~20.04.1", "6.8.0-40.40", "6.8.0-40.40+1", "6.8.0.40.40"),
    *("1.0-1+deb12u1", "1.0-1+b1", "1.0-1~deb12u1", "1.0-1.0", "1.0000001", "1.0x-1", "1.0-x1", "1.0-1~", "1.0-1~~"),
)


def test_versions_are_ordered_as_dpkg_orders_them():
    need("dpkg", "perl")
    pairs = list(itertools.product(VERSIONS, repeat=2))
    # One process for all pairs: dpkg's own library, which `dpkg --compare-versions` is the front of, in its Perl form.
    script = (
        "use Dpkg::Version; while (<STDIN>) { chomp; my ($a, $b) = split / /; "
        '$r = version_compare($a, $b); print $r < 0 ? "<" : $r > 0 ? ">" : "=", "\\n"; }'
    )
    lines = "".join(f"{one} {other}\n" for one, other in pairs)
    done = subprocess.run(["perl", "-e", script], input=lines, capture_output=True, text=True, check=True)
    wrong = [
        f"{one} {said} {other}"
        for (one, other), said in zip(pairs, done.stdout.split(), strict=True)
        if said != _compared(one, other)
    ]
    assert not wrong


def _compared(one: str, other: str) -> str:
    ours, theirs = version_key(one), version_key(other)
    return "<" if ours < theirs else ">" if ours > theirs else "="


def test_versions_are_compared_as_the_program_dpkg_does():
    need("dpkg")
    ordered = sorted(VERSIONS, key=version_key)
    for one, other in itertools.pairwise(ordered):
        relation = "lt" if _compared(one, other) == "<" else "eq"
        argv = ["dpkg", "--compare-versions", one, relation, other]
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 0, argv


@pytest.mark.parametrize(
    ("relation", "version", "met"),
    [
        *(("=", "1.0-1", True), ("=", "1.0-1.0", False), (">=", "1.0-1", True), (">=", "1.0-2", False)),
        *((">>", "1.0-1", False), (">>", "1.0-1~", True), ("<=", "1.0-1", True), ("<=", "1.0", False)),
        *(("<<", "1.0-1", False), ("<<", "1.0-1+b1", True), ("", "", True)),
    ],
)
def test_needs(relation, version, met):
    assert Need("x", relation, version).is_met_by("1.0-1") is met


# Packages and Release -------------------------------------------------------------------------------------------------

ENTRY = AptEntry("http://example.org/debian", "s", ("main",), ("amd64",))
STANZA = {
    "Package": "linux-headers-6.1.0-1-amd64",
    "Architecture": "amd64",
    "Version": "6.1.4-1",
    "Depends": "linux-headers-6.1.0-1-common (= 6.1.4-1), linux-kbuild-6.1:any (>= 6.1.4-1) | linux-kbuild, libc6",
    "Filename": "pool/main/l/linux/linux-headers-6.1.0-1-amd64_6.1.4-1_amd64.deb",
    "Size": "100",
    "SHA256": "a" * 64,
}


def stanza(**changes: str) -> bytes:
    return "".join(f"{name}: {value}\n" for name, value in {**STANZA, **changes}.items()).encode()


def test_only_header_packages_are_read_of_an_index():
    other = b"Package: bash\nVersion: 1\nDescription: x\n Package: linux-headers-1\n"
    content = b"\n".join((other, stanza(), other, stanza(Package="linux-image-6.1.0-1-amd64"), b""))
    (package,) = parse_packages(ENTRY, io.BytesIO(content))
    assert package.name == STANZA["Package"]
    assert package.url == f"http://example.org/debian/{STANZA['Filename']}"
    assert package.needs == (
        (Need("linux-headers-6.1.0-1-common", "=", "6.1.4-1"),),
        (Need("linux-kbuild-6.1", ">=", "6.1.4-1"),),
    )


@pytest.mark.parametrize("piece", [1, 7, 100, 1_000_000])
def test_an_index_is_read_in_pieces(piece, monkeypatch):
    monkeypatch.setattr(aptindex, "_PIECE", piece)
    other = b"Package: bash\nVersion: 1\nDescription: x\n Package: linux-headers-1\n"
    content = b"\n".join((stanza(Version="1"), b"", other, stanza(Version="2"), other, stanza(Version="3")))
    for end in (b"", b"\n", b"\n\n\n"):
        found = parse_packages(ENTRY, io.BytesIO(content.rstrip(b"\n") + end))
        assert [package.version for package in found] == ["1", "2", "3"]


def test_the_field_package_need_not_come_first():
    fields = dict(sorted(STANZA.items()))
    content = "".join(f"{name}: {value}\n" for name, value in fields.items()).encode()
    assert [
        package.version for package in parse_packages(ENTRY, io.BytesIO(content + b"\n" + stanza(Version="2")))
    ] == [
        "6.1.4-1",
        "2",
    ]


def test_plus_in_a_file_name_is_quoted_as_apt_does():
    (package,) = parse_packages(ENTRY, io.BytesIO(stanza(Filename="./pool/6.12+deb12 x.deb")))
    assert package.url == "http://example.org/debian/pool/6.12%2Bdeb12%20x.deb"


@pytest.mark.parametrize(
    "changes",
    [
        *({"Filename": "../../etc/passwd"}, {"Filename": "/etc/passwd"}, {"Filename": "pool/../../x.deb"}),
        *({"Filename": "pool\\..\\x.deb"}, {"Filename": "pool/\x1b[2J.deb"}, {"Filename": ""}, {"Filename": "."}),
        *({"SHA256": "../../../etc"}, {"SHA256": "a" * 63}, {"SHA256": ""}, {"Size": "x"}, {"Size": "-1"}),
        *({"Version": "1/../2"}, {"Version": "1 2"}, {"Package": "linux-headers-../x"}),
    ],
)
def test_malformed_packages_are_refused(changes):
    with pytest.raises(KernelError, match="malformed"):
        list(parse_packages(ENTRY, io.BytesIO(stanza(**changes))))


def test_an_index_for_all_counts_only_where_the_archive_says_so():
    for said, expected in (
        ({"architectures": "all amd64"}, True),
        ({"architectures": "amd64"}, False),
        ({"architectures": "all amd64", "no-support-for-architecture-all": "Packages"}, False),
        ({}, True),
    ):
        assert AptRelease(said, {}).has_index_for_all is expected


FRAME = (
    b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSuite: s\n- -----x\n"
    b"-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"
)


def test_nothing_but_one_signed_message_counts(tmp_path):
    file = tmp_path / "InRelease"
    file.write_bytes(FRAME)
    _check_frame(ENTRY, file)
    assert _unsigned(FRAME) == b"Suite: s\n-----x\n"
    for content in (b"Suite: evil\n" + FRAME, FRAME + b"Suite: evil\n", FRAME + FRAME, b"", b"Suite: s\n"):
        file.write_bytes(content)
        with pytest.raises(KernelError):
            _check_frame(ENTRY, file)
