"""RPM files taken apart and put together again: same bytes but for the modules, and nothing believed that is not so."""

from __future__ import annotations

import hashlib
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from pkgkmod.errors import InputError
from pkgkmod.formats.rpmheader import Tag
from pkgkmod.formats.rpmpackage import check_digests, read_package, repackage, visit_modules
from tests.fixtures.aptrepo import key
from tests.fixtures.machine import CHECKOUT, NO_DATABASE, need
from tests.fixtures.rpmrepo import sign

FOLDER = "/lib/modules/6.1.0-1/extra/odd"
SPEC = r"""Name: kmod-odd
Epoch: 3
Version: 1.2
Release: 4.el9
Summary: Everything that an RPM can hold
License: GPL-2.0-only
URL: https://example.org/
Requires: kernel >= 5.14
Provides: odd-kmod = 1.2
Conflicts: other-odd
AutoReqProv: no
%global debug_package %{nil}
%global __os_install_post %{nil}
%global _build_id_links none
%description
Ünïcödé ☃.
%install
mkdir -p %{buildroot}/etc/odd %{buildroot}/usr/lib/firmware %{buildroot}/usr/share/odd %{buildroot}%{folder}/sub
cd %{buildroot}%{folder}
for i in $(seq 4000); do echo "module number one, line $i"; done > one.ko
echo two > sub/two.ko.xz
echo 'with a space' > 'three 3.ko'
ln one.ko hard.ko
ln one.ko %{buildroot}/usr/share/odd/hard.bin
ln -s one.ko link.ko
cp one.ko %{buildroot}/usr/lib/firmware/not-a-module.ko
touch %{buildroot}/etc/odd/empty %{buildroot}/etc/odd/ghost ghost.ko
echo key=value > %{buildroot}/etc/odd/odd.conf
head -c 400000 /dev/urandom > %{buildroot}/usr/share/odd/big
%files
%dir %attr(0750,root,bin) /etc/odd
%config(noreplace) %attr(0640,root,adm) /etc/odd/odd.conf
%doc /etc/odd/empty
%ghost /etc/odd/ghost
%{folder}
%ghost %{folder}/ghost.ko
/usr/lib/firmware/not-a-module.ko
/usr/share/odd
%pre
echo pre
%post -p /bin/sh
echo post %{folder}
%triggerin -- kernel
echo triggered
%changelog
* Fri Mar 01 2024 Jane Packager <jane@example.org> - 3:1.2-4
- First.
"""
MODULES = {f"{FOLDER}/{name}" for name in ("one.ko", "hard.ko", "sub/two.ko.xz", "three 3.ko")}
PAYLOADS = ("w9.gzdio", "w6.xzdio", "w19.zstdio", "w7T2.zstdio", "w9.bzdio", "w6.lzdio", "w.ufdio")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same package with each kind of payload, made by the real rpmbuild."""
    need("rpmbuild", "rpm", "rpmkeys", "rpm2cpio", "cpio")
    place = tmp_path_factory.mktemp("rpms")
    (place / "odd.spec").write_text(SPEC)
    return {payload: build(place / payload, place / "odd.spec", payload) for payload in PAYLOADS}


def build(folder: Path, spec: Path, payload: str = "w3.zstdio", *more: str) -> Path:
    define = {"_topdir": folder, "_rpmdir": folder, "_dbpath": folder / "db", "_binary_payload": payload}
    define |= {"folder": FOLDER}
    words = [word for name, value in define.items() for word in ("--define", f"{name} {value}")]
    argv = ["rpmbuild", "-bb", "--target", "x86_64", *words, *more, spec]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*/*.rpm")
    return made


def rpm(*words: object) -> str:
    argv = ["rpm", "--dbpath", NO_DATABASE, *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


SIGNATURE = b"~a signature"


def signed(_: str, content: bytes) -> bytes:
    return content + SIGNATURE


@pytest.mark.parametrize("payload", PAYLOADS)
def test_with_nothing_changed_the_same_bytes_come_out(payload: str, packages: dict[str, Path], tmp_path: Path) -> None:
    seen: list[str] = []
    package = read_package(packages[payload])
    repackage(package, tmp_path / "out.rpm", lambda path, content: seen.append(path) or content)  # type: ignore[func-returns-value]
    assert (tmp_path / "out.rpm").read_bytes() == packages[payload].read_bytes()
    assert set(package.modules) == MODULES
    # Of the three names of one.ko, whose content the archive holds once, one of a module is handed over.
    assert len(seen) == 3 and set(seen) < MODULES
    assert list(tmp_path.iterdir()) == [tmp_path / "out.rpm"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_only_the_modules_change(payload: str, packages: dict[str, Path], tmp_path: Path) -> None:
    old, new = packages[payload], tmp_path / "new.rpm"
    repackage(read_package(old), new, signed)
    keys = subprocess.run(["rpmkeys", "--dbpath", tmp_path / "db", "-Kv", new], capture_output=True, text=True)
    assert keys.returncode == 0 and "BAD" not in keys.stdout
    assert "Payload SHA256 digest: OK" in keys.stdout and "MD5 digest: OK" in keys.stdout
    for question in ("--requires", "--provides", "--conflicts", "--scripts", "--triggers", "--changelog", "-i", "-l"):
        assert [line for line in rpm("-qp", question, new).splitlines() if not line.startswith("Size")] == [
            line for line in rpm("-qp", question, old).splitlines() if not line.startswith("Size")
        ]
    before, after = dump(old), dump(new)
    assert list(before) == list(after)
    same = {path for path in before if before[path] == after[path]}
    assert set(before) - same == MODULES | {"/usr/share/odd/hard.bin"}
    for path in MODULES:
        # Everything but size and digest: time, mode, owner, flags.
        assert (before[path][1], *before[path][3:]) == (after[path][1], *after[path][3:])
    grown = 3 * len(SIGNATURE)
    assert int(rpm("-qp", "--qf", "%{SIZE}", new)) == int(rpm("-qp", "--qf", "%{SIZE}", old)) + grown
    assert int(rpm("-qp", "--qf", "%{ARCHIVESIZE}", new)) == len(cpio(new))


def dump(package: Path) -> dict[str, list[str]]:
    lines = (line.rsplit(" ", 10) for line in rpm("-qp", "--dump", package).splitlines())
    return {path: facts for path, *facts in lines}


def cpio(package: Path) -> bytes:
    return subprocess.run(["rpm2cpio", package], capture_output=True, check=True).stdout


def test_it_installs_and_verifies(packages: dict[str, Path], tmp_path: Path) -> None:
    repackage(read_package(packages["w19.zstdio"]), tmp_path / "new.rpm", signed)
    root = ["--root", tmp_path / "root", "--dbpath", "/db"]
    (tmp_path / "root/etc").mkdir(parents=True)
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", tmp_path / "root/etc")
    install = ["rpm", *root, "-i", "--nodeps", "--noscripts", "--notriggers", tmp_path / "new.rpm"]
    said = subprocess.run(install, capture_output=True, text=True, check=True).stderr.splitlines()
    assert [line for line in said if not line.startswith("rpm: ")] == []  # Debian's rpm says: use alien
    verified = subprocess.run(["rpm", *root, "-V", "--nodeps", "--noscripts", "kmod-odd"], capture_output=True)
    assert (verified.returncode, verified.stdout) == (0, b"")
    one = tmp_path / "root" / FOLDER.lstrip("/") / "one.ko"
    assert one.read_bytes().endswith(b"line 4000\n" + SIGNATURE)
    assert one.stat().st_ino == one.with_name("hard.ko").stat().st_ino
    assert one.with_name("link.ko").is_symlink()
    assert b"~" not in (tmp_path / "root/usr/lib/firmware/not-a-module.ko").read_bytes()


def test_the_same_again_gives_the_same_bytes(packages: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        repackage(read_package(packages["w7T2.zstdio"]), tmp_path / name, signed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_old_signatures_are_left_out_as_rpmsign_does(packages: dict[str, Path], tmp_path: Path) -> None:
    package = tmp_path / "signed.rpm"
    shutil.copyfile(packages["w9.gzdio"], package)
    sign(key("rpm"), package)
    assert read_package(package).is_signed and not read_package(packages["w9.gzdio"]).is_signed
    repackage(read_package(package), tmp_path / "new.rpm", lambda _, content: content)
    assert not read_package(tmp_path / "new.rpm").is_signed
    assert (tmp_path / "new.rpm").read_bytes() == packages["w9.gzdio"].read_bytes()


def test_what_was_repackaged_can_be_signed(packages: dict[str, Path], tmp_path: Path) -> None:
    package = tmp_path / "new.rpm"
    repackage(read_package(packages["w6.xzdio"]), package, signed)
    payload = read_package(package).payload
    sign(key("rpm"), package)
    assert read_package(package).payload == payload  # it fits in the room that is reserved
    database = ["--dbpath", tmp_path / "db"]
    subprocess.run(["rpmkeys", *database, "--import", key("rpm").armored], check=True)
    done = subprocess.run(["rpmkeys", *database, "-K", package], capture_output=True, text=True)
    assert done.stdout.strip().endswith("digests signatures OK")


@pytest.mark.parametrize(("number", "name"), [(1, "md5"), (2, "sha1"), (10, "sha512")])
def test_files_are_hashed_as_the_package_says(
    number: int, name: str, packages: dict[str, Path], tmp_path: Path
) -> None:
    spec = next(iter(packages.values())).parents[2] / "odd.spec"
    made = build(tmp_path, spec, "w1.gzdio", "--define", f"_binary_filedigest_algorithm {number}")
    repackage(read_package(made), tmp_path / "new.rpm", signed)
    expected = hashlib.new(name, b"two\n" + SIGNATURE).hexdigest()
    assert dump(tmp_path / "new.rpm")[f"{FOLDER}/sub/two.ko.xz"][2] == expected


def test_modules_are_visited(packages: dict[str, Path]) -> None:
    seen: dict[str, bytes] = {}
    visit_modules(read_package(packages["w9.bzdio"]), lambda path, content: seen.update({path: content}))
    assert seen[f"{FOLDER}/three 3.ko"] == b"with a space\n"


# ---- files that are not what they say


SMALL = r"""Name: a
Version: 1
Release: 1
Summary: s
License: GPL
AutoReqProv: no
%global debug_package %{nil}
%global __os_install_post %{nil}
%description
d
%install
mkdir -p %{buildroot}%{folder}
echo m > %{buildroot}%{folder}/m.ko
%files
%{folder}
"""


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("rpmbuild")
    place = tmp_path_factory.mktemp("small")
    (place / "a.spec").write_text(SMALL)
    return build(place / "made", place / "a.spec", "w9.gzdio")


@pytest.fixture
def small(built_once: Path, tmp_path: Path) -> Path:
    """A package of one small module, to be changed."""
    return Path(shutil.copy(built_once, tmp_path))


def use_all(path: Path) -> None:
    package = read_package(path)
    visit_modules(package, lambda *_: None)
    repackage(package, path.with_name("out.rpm"), signed)


@pytest.mark.parametrize("length", [0, 50, 96, 100, 112, 300, 4400, 4600, 5500, -1])
def test_a_truncated_package_is_refused(length: int, small: Path) -> None:
    small.write_bytes(small.read_bytes()[:length])
    with pytest.raises(InputError, match="cannot be read as an RPM"):
        use_all(small)
    assert not small.with_name("out.rpm").exists()


def test_a_changed_payload_is_not_given_new_digests(small: Path) -> None:
    content = bytearray(small.read_bytes())
    content[-12] ^= 1
    small.write_bytes(content)
    with pytest.raises(InputError) as caught:
        repackage(read_package(small), small.with_name("out.rpm"), signed)
    assert "it is damaged" in caught.value.details


def test_no_byte_of_the_headers_can_do_harm(small: Path, tmp_path: Path) -> None:
    """Each byte of lead, signature header and header, changed in turn: an InputError, or nothing that matters."""
    content = small.read_bytes()
    package = read_package(small)
    # Most of the signature header is room for signatures.
    places = [*range(0, 400), *range(package.payload - len(package.header.blob), package.payload)]
    odd = tmp_path / "odd.rpm"
    refused = 0
    for place in places:
        value = content[place] ^ (0xFF if place % 2 else 1)
        odd.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        try:
            changed = read_package(odd)
            visit_modules(changed, lambda *_: None)
            check_digests(changed)
        except InputError:
            refused += 1
    assert refused > len(places) * 0.9


def field(blob: bytearray, tag: int, number: int, value: int) -> bytearray:
    """Change a field (1 type, 2 offset, 3 count) of a tag's entry in a package's header."""
    start = blob.rindex(b"\x8e\xad\xe8\x01\0\0\0\0") + 16
    while struct.unpack_from(">I", blob, start)[0] != tag:
        start += 16
    struct.pack_into(">i", blob, start + 4 * number, value)
    return blob


@pytest.mark.parametrize("tag", [Tag.BASENAMES, Tag.FILESIZES, Tag.DIRINDEXES, Tag.FILEDIGESTS, Tag.PAYLOADDIGEST])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("value", [0, 5, -1, -(2**31), 2**31 - 1, 1_000_000, 70_000])
def test_wild_entries_are_refused(tag: int, number: int, value: int, small: Path) -> None:
    small.write_bytes(field(bytearray(small.read_bytes()), tag, number, value))
    with pytest.raises(InputError):
        use_all(small)


def test_memory_is_bounded(small: Path) -> None:
    """Lengths of gigabytes in a file of some kilobytes allocate nothing."""
    content = bytearray(small.read_bytes())
    for place in (96 + 8, 96 + 12):
        odd = bytearray(content)
        struct.pack_into(">I", odd, place, 0x7FFFFFF0)
        small.write_bytes(odd)
        code = (
            "import sys; from pathlib import Path; from pkgkmod.formats.rpmpackage import read_package\n"
            "from pkgkmod.errors import InputError\n"
            "try: read_package(Path(sys.argv[1]))\n"
            "except InputError as error: print(error.details)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, small],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (400 * 1024 * 1024,) * 2),
        )
        assert "a header says that it has" in done.stdout, done.stderr


def with_archive(small: Path, archive: bytes) -> Path:
    """Return the package with another archive, and its digests left as they were."""
    package = read_package(small)
    small.with_name("archive").write_bytes(archive)
    subprocess.run(["gzip", "-n9f", small.with_name("archive")], check=True)
    made = small.with_name("odd.rpm")
    made.write_bytes(small.read_bytes()[: package.payload] + small.with_name("archive.gz").read_bytes())
    return made


def test_archives_that_do_not_fit_the_header_are_refused(small: Path) -> None:
    whole = cpio(small)
    start = whole.index(b"0707", 1)  # the module's member, behind that of the folder
    ends = whole.rindex(b"070701")
    member, tail = whole[start:ends], whole[ends:]
    size = slice(54, 62)
    cases = {
        "twice": whole[:ends] + member + tail,
        "not in the archive": whole[:start] + tail,
        "does not list": whole.replace(b"/m.ko", b"/x.ko"),
        "bytes in the archive, and 2": whole[:start] + member[:54] + b"7fffffff" + member[62:] + tail,
        "not complete": whole[:ends],
        "not of the form": whole[:start] + b"070702" + member[6:] + tail,
        "too long": whole[:start] + member[:94] + b"ffffffff" + member[102:] + tail,
        "follows": whole + b"more",
    }
    assert member[size] == b"00000002"
    for words, archive in cases.items():
        with pytest.raises(InputError) as caught:
            visit_modules(read_package(with_archive(small, archive)), lambda *_: None)
        assert words in caught.value.details, words


def test_what_is_not_repackaged_is_named(small: Path, tmp_path: Path) -> None:
    for content, words in ((b"", "begin"), (b"\x7fELF" * 50, "begin"), (b"drpm" * 50, "begin")):
        (tmp_path / "x.rpm").write_bytes(content)
        with pytest.raises(InputError) as caught:
            read_package(tmp_path / "x.rpm")
        assert words in caught.value.details
    with pytest.raises(InputError):
        read_package(tmp_path / "absent.rpm")
    # A number that stands for format 6: RPMFORMAT in the place of a tag that nobody looks at.
    odd = bytearray(small.read_bytes())
    start = odd.rindex(b"\x8e\xad\xe8\x01\0\0\0\0")
    place = odd.index(struct.pack(">II", Tag.PAYLOADDIGESTALGO, 4), start)
    struct.pack_into(">I", odd, place, Tag.RPMFORMAT)
    for number in (3, 4):  # the lead's; rpm 6 writes 4 for its own format
        odd[4] = number
        small.write_bytes(odd)
        with pytest.raises(InputError, match="format 8, and only format 4"):
            read_package(small)
    delta = bytearray(small.read_bytes().replace(b"cpio\0gzip", b"drpm\0gzip"))
    struct.pack_into(">I", delta, place, Tag.PAYLOADDIGESTALGO)
    small.write_bytes(delta)
    with pytest.raises(InputError, match="packed as 'drpm'"):
        read_package(small)
    large = bytearray(delta)
    struct.pack_into(">I", large, large.index(struct.pack(">II", Tag.FILESIZES, 4), start), Tag.LONGFILESIZES)
    small.write_bytes(large)
    with pytest.raises(InputError, match="a file of 4 GiB or more"):
        read_package(small)
    small.write_bytes(delta.replace(b"drpm\0gzip", b"cpio\0gnip"))
    with pytest.raises(InputError, match="compression 'gnip 9' is not known"):
        read_package(small)


def test_threads_that_need_the_library_at_once_all_get_the_whole_of_it():
    code = """
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from pkgkmod.formats.rpmlibrary import load
gate = Barrier(8)
def one(_):
    gate.wait()
    return load()[0].TransactionSet
with ThreadPoolExecutor(8) as pool:
    assert len(set(pool.map(one, range(8)))) == 1
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
