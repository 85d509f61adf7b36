"""The sources of a Debian source package: as they were imported, and the patches as debian/patches."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pkgkmod.errors import SourceError
from pkgkmod.model.artifacts import Provenance
from pkgkmod.modules.buildfolder import (
    DEPENDENCIES_FILE,
    FINISH_FILE,
    KCONFIG_FILE,
    OPTIONS_FILE,
    PATCHES_FOLDER,
    STATIC_FILES,
)
from pkgkmod.modules.ownmake import MAKE_FILE
from pkgkmod.modules.probefiles import PROBES_FOLDER, PROBES_MAKEFILE
from pkgkmod.packages.dep3 import patch_header
from pkgkmod.packages.headers import LIST
from pkgkmod.progress import Progress
from pkgkmod.sources.gitcommand import GitFolder
from pkgkmod.sources.manifest import Manifest
from pkgkmod.sources.patches import PATCHES, SERIES, Patch, read_patches

# What dpkg-source, which reads patches itself before GNU patch does, and both take as it stands.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.+,=@~%][A-Za-z0-9_.+,=@~%/-]*")
# In the archive these are pkgkmod's, or dpkg-source's own, and not what the patch was made for.
_NOT_THE_SOURCES = {*STATIC_FILES, FINISH_FILE, DEPENDENCIES_FILE, OPTIONS_FILE, KCONFIG_FILE, LIST, "provenance.json"}
_NOT_THE_SOURCES |= {MAKE_FILE, PATCHES_FOLDER, PROBES_FOLDER, PROBES_MAKEFILE, "firmware", "debian", ".pc"}
_REGULAR = ("100644", "100755")

# Neither a packager's settings nor attributes in the sources may change a byte.
_SETTINGS = {
    "core.attributesFile": os.devnull,
    "core.autocrlf": "false",
    "core.fileMode": "true",
    "core.quotePath": "false",
    "core.safecrlf": "false",
    "diff.indentHeuristic": "true",
    "diff.algorithm": "myers",
}
_ATTRIBUTES = "* -text -ident !eol !filter !working-tree-encoding !diff\n"
_DIFF = ("diff-tree", "-r", "--no-renames", "--no-ext-diff", "--no-textconv")


@dataclass(frozen=True)
class Original:
    """A file as it was before the patches."""

    content: bytes
    executable: bool


@dataclass(frozen=True)
class DebianSources:
    """What makes patched sources the ones that were imported, and the patches that make them patched again."""

    originals: Mapping[str, Original | None] = field(default_factory=dict)
    """Files that the patches change, by path; None: only the patches bring it."""
    patches: tuple[tuple[str, bytes], ...] = ()
    """Name and content of each patch in debian/patches, in order."""
    taken_back: frozenset[str] = frozenset()
    """Names of these patches in the project."""

    def take_back(self, folder: Path, provenance: Provenance) -> None:
        """Make the patched files in `folder` what they were before, and let its provenance.json say so.

        Then the archive stays the same when a patch is added: one version has one archive, whatever its revisions.
        """
        if self.taken_back:
            left = tuple(patch for patch in provenance.patches if patch.name not in self.taken_back)
            text = provenance_text(provenance.model_copy(update={"patches": left}))
            (folder / "provenance.json").write_text(text, encoding="utf-8")
        for path, original in self.originals.items():
            file = folder / path
            file.unlink(missing_ok=True)
            if original is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(original.content)
                file.chmod(0o755 if original.executable else 0o644)

    def write_patches(self, debian: Path) -> None:
        """Write patches/ and its series into the folder `debian`, if there are any."""
        if not self.patches:
            return
        folder = debian / "patches"
        folder.mkdir()
        for name, content in self.patches:
            (folder / name).write_bytes(content)
        (folder / SERIES).write_text("".join(f"{name}\n" for name, _ in self.patches), encoding="utf-8")


AS_IMPORTED = DebianSources()


def debian_sources(imported: Path, provenance: Provenance, progress: Progress) -> DebianSources:
    """Return how the sources of a source tree's result, in the folder `imported`, were before they were patched.

    dpkg-source knows plain text patches only. A patch with more (binary files, modes, links, odd names) stays applied
    in the sources, with all before it, and a warning says so; likewise all patches, if files that they changed
    were edited since.
    """
    patches = read_patches(imported / PATCHES, quilt=True)
    if not patches:
        return AS_IMPORTED
    with tempfile.TemporaryDirectory(prefix="pkgkmod-quilt-") as scratch:
        try:
            states = _States(imported, Path(scratch), progress, sha256=len(provenance.commit) == 64)
            trees = states.before_each(patches)
            edited = states.differences(trees[0], Manifest.load(imported))
        except (SourceError, FileNotFoundError, ValueError) as refused:
            progress.warning(f"the patches stay applied in the source package's archive: {refused}")
            return AS_IMPORTED
        if edited:
            progress.warning(
                "the patches stay applied in the source package's archive: without them these files are not what "
                f"was imported: {', '.join(edited[:10])}"
            )
            return AS_IMPORTED
        first = states.first_plain(trees, patches)
        texts = [states.diff(before, after) for before, after in zip(trees[first:], trees[first + 1 :], strict=False)]
        named = zip(_file_names(patches[first:]), patches[first:], texts, strict=True)
        return DebianSources(
            originals=states.originals(trees[first], trees[-1]),
            patches=tuple((name, patch_header(patch).encode() + diff) for name, patch, diff in named if diff),
            taken_back=frozenset(patch.name for patch in patches[first:]),
        )


def provenance_text(provenance: Provenance) -> str:
    """Return the text of provenance.json."""
    return provenance.model_dump_json(indent=1) + "\n"


def _file_names(patches: Sequence[Patch]) -> list[str]:
    """Return a name for each patch that a series can hold: they may be in folders, and have any character."""
    names: list[str] = []
    for number, patch in enumerate(patches, start=1):
        plain = re.sub(r"[^A-Za-z0-9._+-]", "-", PurePosixPath(patch.name).name)
        plain = plain if plain.endswith((".patch", ".diff")) else f"{plain}.patch"
        while plain in names or not plain[0].isalnum():
            plain = f"{number:04}-{plain}"
        names.append(plain)
    return names


class _States:
    """The states of the sources before, between and after the patches, as trees of a git folder of our own."""

    def __init__(self, imported: Path, scratch: Path, progress: Progress, *, sha256: bool) -> None:
        self._progress = progress
        environment = {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_WORK_TREE": str((imported / "tree").resolve()),
            "GIT_INDEX_FILE": str(scratch / "index"),
        }
        # Nobody but us knows this one, so its files are nobody's to be asked about.
        bare = GitFolder(scratch / "git", progress, _SETTINGS, {**environment, "GIT_WORK_TREE": str(scratch)})
        bare.text("init", "--quiet", "--template=", f"--object-format={'sha256' if sha256 else 'sha1'}")
        (scratch / "git" / "info").mkdir(exist_ok=True)
        (scratch / "git" / "info" / "attributes").write_text(_ATTRIBUTES, encoding="ascii")
        self._git = GitFolder(scratch / "git", progress, _SETTINGS, environment)
        self._git.text("add", "--all", "--force", environment["GIT_WORK_TREE"])
        self._empty = self._git.text("hash-object", "--stdin")

    def before_each(self, patches: Sequence[Patch]) -> list[str]:
        """Return the tree before each patch, and the present one; raise SourceError if one cannot be taken back."""
        trees = [self._git.text("write-tree")]
        for patch in reversed(patches):
            options = ("--cached", "--reverse", "--whitespace=nowarn", f"-p{patch.strip}")
            self._git.text("apply", *options, stdin=patch.content)
            trees.append(self._git.text("write-tree"))
        return trees[::-1]

    def differences(self, tree: str, manifest: Manifest) -> list[str]:
        """Return the patched files that are not in `tree` what they were when they were imported."""
        present = {}
        for line in self._records("ls-tree", "-r", "-z", tree):
            facts, _, path = line.partition("\t")
            mode, _, object_id = facts.split(" ")
            present[path] = (mode, object_id)
        wanted = {path: manifest.imported.get(path) for path in manifest.patched}
        return [
            path for path, state in wanted.items() if present.get(path) != (state and (state.mode, state.object_id))
        ]

    def first_plain(self, trees: Sequence[str], patches: Sequence[Patch]) -> int:
        """Return the place of the first patch from which on all are plain; warn of the last one that is not."""
        for number in range(len(patches), 0, -1):
            if odd := self._not_plain(trees[number - 1], trees[number]):
                self._progress.warning(
                    f"patch {patches[number - 1].name} stays applied in the source package's archive, with those "
                    f"before it: debian/patches cannot say what it does to {odd}"
                )
                return number
        return 0

    def diff(self, before: str, after: str) -> bytes:
        """Return the patch between two trees."""
        options = ("--patch", "--unified=3", "--full-index", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
        with self._git.stream(*_DIFF, *options, before, after) as output:
            return output.read()

    def originals(self, before: str, after: str) -> dict[str, Original | None]:
        """Return the files of the first tree that are others in the second one."""
        found: dict[str, Original | None] = {}
        for mode, _, object_id, _, path in self._changes(before, after):
            found[path] = None
            if mode in _REGULAR:
                with self._git.stream("cat-file", "blob", object_id) as output:
                    found[path] = Original(output.read(), mode == "100755")
        return found

    def _not_plain(self, before: str, after: str) -> str:
        """Return a file whose change a plain patch cannot say; empty if there is none."""
        binary = {
            line.split("\t")[2] for line in self._records(*_DIFF, "--numstat", "-z", before, after) if line[0] == "-"
        }
        for old, new, old_id, new_id, path in self._changes(before, after):
            modes = {mode for mode in (old, new) if mode != "000000"}
            # GNU patch takes away files that become empty, and none are made by a patch without lines.
            odd = path in binary or self._empty in (old_id, new_id) or not modes <= set(_REGULAR) or len(modes) > 1
            made_executable = old == "000000" and new == "100755"
            top = path.partition("/")[0]
            if odd or made_executable or top in _NOT_THE_SOURCES or not _PLAIN_NAME.fullmatch(path):
                return path
        return ""

    def _changes(self, before: str, after: str) -> list[tuple[str, str, str, str, str]]:
        """Return old and new mode, old and new object id, and path of what differs."""
        words = self._records(*_DIFF, "--raw", "--no-abbrev", "-z", before, after)
        changes = []
        for facts, path in zip(words[::2], words[1::2], strict=True):
            old, new, old_id, new_id, _ = facts.removeprefix(":").split(" ")
            changes.append((old, new, old_id, new_id, path))
        return changes

    def _records(self, *arguments: str) -> list[str]:
        return [record for record in self._git.text(*arguments).split("\0") if record]
