"""rpm-md repositories, which dnf, yum and zypper read: a folder for each release and architecture.

createrepo_c writes the index. It is compressed with gzip, because EL 8 and 9 cannot read zstd.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pkgkmod.command import Command
from pkgkmod.errors import InputError, PackageError
from pkgkmod.formats.rpm import RpmHeader, compare_evr, read_header
from pkgkmod.programs import find_tool
from pkgkmod.publish.entries import Entry, Incoming, StoredFile
from pkgkmod.publish.gpg import Signer
from pkgkmod.publish.repository import Draft, existing_series, sha256_of
from pkgkmod.signing.openssl import Run

SOURCES = "source"
_NOARCH = "noarch"
_WORD = re.compile(r"[0-9A-Za-z_][0-9A-Za-z.+~^_-]*")
# The kernel, as kmod packages have it in their release, and KMPs in their version.
_KERNEL = re.compile(r"[._]k[0-9][^-]*")


@dataclass(frozen=True)
class RpmMdStyle:
    """How dnf and zypper want it; each series is RELEASE/ARCH."""

    run: Run
    signer: Signer | None

    def link(self, series: str) -> str:
        """Return where the index is looked for."""
        return f"{series}/repodata"

    def settings(self) -> Mapping[str, str]:
        """Return whose signature the index has."""
        return {"key": self.signer.key.signer if self.signer else ""}

    def compare(self, one: str, other: str) -> int:
        """Compare versions as rpm does."""
        return compare_evr(one, other)

    def write(self, draft: Draft) -> tuple[str, ...]:
        """Let createrepo_c write the index, and sign it; return the names by digests."""
        find_tool("createrepo_c", needed_for="rpm-md repositories")
        (draft.root / draft.series).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=draft.folder.parent) as place:
            done = self.run(_createrepo(draft, Path(place)))
            made = Path(place, "made/repodata")
            if not done.ok or not (made / "repomd.xml").is_file():
                raise PackageError(
                    f"createrepo_c failed ({done.returncode})", details="\n".join(done.tail[-10:]), log=done.log
                )
            draft.folder.rmdir()
            made.rename(draft.folder)
        named = tuple(sorted(path.name for path in draft.folder.iterdir() if path.name != "repomd.xml"))
        if self.signer:
            self.signer.sign(draft.folder / "repomd.xml", draft.folder / "repomd.xml.asc")
            # zypper offers to trust the key that it finds here.
            (draft.folder / "repomd.xml.key").write_bytes(self.signer.public_key())
        return named


def _createrepo(draft: Draft, place: Path) -> Command:
    """Lay out what createrepo_c reads, and return how it is called; it writes into `made` below `place`."""
    # What is not in the list is not ours.
    paths = sorted(file.path.removeprefix(f"{draft.series}/") for entry in draft.entries for file in entry.files)
    listed, output = place / "packages", place / "made"
    listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    output.mkdir()
    argv = ["createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz", "--unique-md-filenames"]
    argv += ["--revision", str(int(time.time())), "--pkglist", str(listed), "--outputdir", str(output)]
    if draft.previous:
        (place / "repodata").symlink_to(draft.previous)
        argv += ["--update", "--update-md-path", str(place)]
    folder = draft.root / draft.series
    return Command((*argv, str(folder)), cwd=folder)


def read_packages(paths: Iterable[Path], release: str, root: Path) -> dict[str, list[Incoming]]:
    """Return what RPM files are for a release, by series; packages for all machines go to each that is there.

    Raise InputError for what is no RPM.
    """
    headers = {path: read_header(path) for path in paths}
    there = {series.rpartition("/")[2] for series in existing_series(root, f"{release}/*/repodata")}
    machines = sorted(({header.arch for header in headers.values()} | there) - {"src", SOURCES, _NOARCH})
    found: dict[str, list[Incoming]] = {}
    for path, header in headers.items():
        sha256, size = sha256_of(path), path.stat().st_size
        folders = {"src": [SOURCES], _NOARCH: machines or [_NOARCH]}.get(header.arch, [header.arch])
        for folder in folders:
            series = f"{release}/{folder}"
            found.setdefault(series, []).append(Incoming(_entry(path, header, series, size, sha256), (path,)))
    return found


def _entry(path: Path, header: RpmHeader, series: str, size: int, sha256: str) -> Entry:
    words = (header.name, header.version, header.release, header.arch)
    if not all(_WORD.fullmatch(word) for word in words):
        raise InputError(f"{path} cannot be published", details=f"its name is {words!r}", hint="build it again")
    epoch = f"{header.epoch}:" if header.epoch else ""
    version = f"{epoch}{header.version}-{header.release}"
    kind = "source" if header.arch == "src" else "binary"
    # Named anew: what the file is called says nothing.
    name = f"{header.name}-{header.version}-{header.release}.{header.arch}.rpm"
    return Entry(
        kind="source" if kind == "source" else "binary",
        name=header.name,
        version=version,
        counted_as="-".join(_KERNEL.sub("", part) for part in version.split("-")),
        arch=header.arch,
        files=(StoredFile(path=f"{series}/Packages/{name}", size=size, sha256=sha256),),
    )


def repo_file(ident: str, title: str, baseurl: str, key_url: str | None) -> str:
    """Return what a user writes into /etc/yum.repos.d/IDENT.repo, or /etc/zypp/repos.d; `$basearch` is left to it."""
    trust = f"gpgcheck=1\nrepo_gpgcheck=1\ngpgkey={key_url}" if key_url else "gpgcheck=0\nrepo_gpgcheck=0"
    return f"[{ident}]\nname={title}\nbaseurl={baseurl}\nenabled=1\n{trust}\n"
