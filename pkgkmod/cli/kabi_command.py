"""update_kabi: the symbols that modules use, for the kABI list of a kernel tree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.ddiskit import move_into_place
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.errors import UsageError
from pkgkmod.progress import JsonLines, Progress, escape_controls

if TYPE_CHECKING:
    from pkgkmod.cli.kabi_search import Modules, Search
    from pkgkmod.modules.kabi import Finding
    from pkgkmod.sources.kabitree import KernelTree

_PATH = click.Path(path_type=Path)
_OPTIONS = [
    click.option("-g", "--kernel-tree", "--git-dir", type=_PATH, metavar="REPO", help="Git repository of the kernel."),
    click.option("-r", "--base", metavar="REV", help="Revision whose lists count, and to build upon (HEAD)."),
    click.option(
        "-d", "--kabi-dir", "--kabi-dest-dir", metavar="DIR", help="Folder of the lists in the tree; found if absent."
    ),
    click.option("--minor", type=int, metavar="N", help="Minor release that lists the symbols; as the tree says."),
    click.option("-o", "--patch", type=_PATH, metavar="FILE", help="Write a patch, for `git am`."),
    click.option("--branch", metavar="NAME", help="Commit on this branch, which is made."),
    click.option("-t/-n", "--commit/--no-commit", help="Commit on a branch that is named after the modules."),
    click.option("--append", is_flag=True, help="Commit on top of the branch if it is there."),
    click.option("-m", "--message", "--kabi-commit-message", metavar="TEXT", help="Why the symbols are needed."),
    click.option(
        "-M",
        "--symvers",
        "--symvers-path",
        multiple=True,
        metavar="[ARCH=]FILE",
        help="Module.symvers of the kernel; found if absent.",
    ),
    click.option(
        "-w",
        "--stable-list",
        "--kabi-whitelist",
        multiple=True,
        metavar="[ARCH=]FILE",
        help="Another list of symbols that are stable already.",
    ),
    click.option("--arch", multiple=True, metavar="ARCH", help="Only modules for this machine."),
    click.option("--target", multiple=True, metavar="NAME", help="Only this target of the project."),
    click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel of the project."),
    click.option(
        "--overwrite/--no-overwrite",
        " /-O",
        default=None,
        help="Mend entries that differ, or leave them; else an error.",
    ),
    click.option(
        "-b/-B",
        "--break-on-errors/--no-break-on-version-conflicts",
        "strict",
        default=True,
        help="Fail on other CRCs and unknown symbols (default), or leave those out.",
    ),
    click.option("--dry-run", is_flag=True, help="Only say what would be committed or written."),
    # ddiskit read the requirements of RPMs unless it was told to look into them; here it is always the modules.
    click.option("-e/-E", "--extract-kmod/--no-extract-kmod", "extract", default=True, hidden=True),
]


def _options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.argument("files", nargs=-1, type=_PATH, metavar="[MODULE.ko|PACKAGE.rpm|DIR]...")
@_options
@command_options
@click.pass_context
def update_kabi(ctx: click.Context, /, files: tuple[Path, ...], **given: Any) -> None:
    """Add the symbols that modules import, and that are not stable yet, to a kernel tree's kABI list.

    The modules are those of the files, or of the project's results. Their symbols are printed as lines of the list; -o
    makes a patch of them, --branch a commit. The repository's index, work tree and HEAD stay as they are.
    """
    from pkgkmod.cli.kabi_search import Search

    invocation: Invocation = ctx.obj.with_options(given)
    progress = invocation.progress()
    try:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-kabi-") as scratch:
            _check_usage(files, given)
            modules = _read_modules(files, Path(scratch), invocation, given, progress)
            with _opened(given["kernel_tree"], progress) as tree:
                _Update(invocation, given, Search(given, progress, modules, tree)).run()
    finally:
        progress.close()


def _check_usage(files: Sequence[Path], given: Mapping[str, Any]) -> None:
    flags = {"--branch": given["branch"] is not None, "--commit": given["commit"], "-o": given["patch"]}
    writes = [flag for flag, value in flags.items() if value]
    if writes and not given["kernel_tree"]:
        raise UsageError(f"{writes[0]} needs a kernel tree", hint="name its git repository with --kernel-tree")
    if given["append"] and not (flags["--branch"] or flags["--commit"]):
        raise UsageError("--append needs a branch", hint="name it with --branch")
    if given["minor"] is not None and given["minor"] < 0:
        raise UsageError(f"--minor {given['minor']}: there is no such release", hint="6 is the minor release of 9.6")
    patch = given["patch"]
    if patch and (patch in files or not _may_be_replaced(patch)):
        raise UsageError(
            f"{patch} is there, and is no patch",
            hint="-o names the patch to write; entries are replaced by --overwrite",
        )
    if patch and not patch.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {patch.absolute().parent}", hint="make it, or name another place with -o")


def _may_be_replaced(file: Path) -> bool:
    if not file.exists():
        return True
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(5) in (b"From ", b"")


@contextmanager
def _opened(folder: Path | None, progress: Progress) -> Iterator[KernelTree | None]:
    from pkgkmod.sources.kabitree import open_kernel_tree

    with nullcontext(None) if folder is None else open_kernel_tree(folder, progress) as tree:
        yield tree


def _read_modules(
    files: Sequence[Path], scratch: Path, invocation: Invocation, given: Mapping[str, Any], progress: Progress
) -> Modules:
    """Read the modules of the command line, or those of the project."""
    from pkgkmod.cli.kabi_search import Modules
    from pkgkmod.modules.kabifiles import read_importers

    symvers: dict[str, Path] = {}
    if not files:
        files, symvers = _built_modules(invocation, given, progress)
    importers = read_importers(files, scratch, progress)
    if wanted := given["arch"]:
        known = sorted({one.arch for one in importers})
        importers = tuple(one for one in importers if one.arch in wanted)
        if not importers:
            raise UsageError(f"no module is for {', '.join(wanted)}", hint=f"they are for {', '.join(known)}")
    return Modules(importers, symvers)


def _built_modules(
    invocation: Invocation, given: Mapping[str, Any], progress: Progress
) -> tuple[Sequence[Path], dict[str, Path]]:
    """Return the modules that were built for the project's kernels, and the symbols of those."""
    from pkgkmod.cli.run_commands import select
    from pkgkmod.model.artifacts import ModuleSet
    from pkgkmod.workspace import Workspace

    loaded = invocation.load()
    selection = select(loaded, ("build_modules",), {**given, "dry_run": True}, progress)
    workspace = Workspace(loaded.folder)
    files: list[Path] = []
    symvers = {}
    for job in selection.jobs:
        for kernel in job.kernels:
            result = workspace.newest("build_modules", job.source_label, kernel.uname_r)
            if result and result.state == "ok":
                built = result.load(ModuleSet).modules
                files += [result.folder / module.file for module in built]
                symvers[kernel.uname_r] = kernel.place / "Module.symvers"
    if not files:
        raise UsageError(
            "no modules have been built yet", hint="run `pkgkmod build_modules` first, or name modules or RPMs"
        )
    return list(dict.fromkeys(files)), symvers


class _Update:
    """What comes of the symbols that are new."""

    def __init__(self, invocation: Invocation, given: Mapping[str, Any], search: Search) -> None:
        self.json = invocation.json_lines
        self.given = given
        self.search = search
        self.tree = search.tree
        self.names = list(dict.fromkeys(one.name for one in search.modules.importers))
        self.branch: str | None = given["branch"]
        if self.branch is None and given["commit"]:
            self.branch = _branch_name(self.names)

    def run(self) -> None:
        """Find what is new, and print, write or commit it."""
        from pkgkmod.modules.kabi import changes

        old = self.tree.branch(self.branch) if self.tree and self.branch is not None else None
        head = self.tree.resolve(self.given["base"] or "HEAD") if self.tree else ""
        base = old or head
        found = self.search.findings(base, head)
        if self.json:
            for finding in found:
                _tell(finding)
        wanted = self.search.settled(found)
        files = changes(wanted, self.search.lists, overwrite=bool(self.given["overwrite"])) if self.tree else {}
        if not wanted:
            everything = all(finding.state == "listed" for finding in found)
            self._say("nothing to add: all symbols are listed" if everything else "nothing to add")
        elif self.branch or self.given["patch"]:
            if old and not self.given["append"]:
                raise UsageError(
                    f"there is a branch {self.branch} already",
                    hint="--append commits on top of it; --branch names another one",
                )
            self._write(base, old, files, wanted)
        elif not self.json:
            self._print(wanted)

    def _write(self, base: str, old: str | None, files: Mapping[str, bytes], wanted: Sequence[Finding]) -> None:
        from pkgkmod.modules.kabi import commit_message, count_symbols

        assert self.tree
        symbols = count_symbols(len({finding.use.symbol for finding in wanted}))
        signature = self.tree.person().signature
        message = commit_message(wanted, self.names, reason=self.given["message"] or "", signature=signature)
        if patch := self.given["patch"]:
            if not self.given["dry_run"]:
                _save(self.tree.patch(base, files, message), patch)
            self._did("kabi-patch", f"{patch}: {symbols}", file=str(patch))
        if self.branch:
            commit = ""
            if not self.given["dry_run"]:
                commit = self.tree.commit(base, files, message, self.branch, old=old)
            self._did(
                "kabi-commit",
                f"branch {self.branch} {commit[:12]}".strip() + f": {symbols}",
                branch=self.branch,
                commit=commit,
            )

    def _print(self, wanted: Sequence[Finding]) -> None:
        """Print the lines of each list, as the kernel tree has them."""
        for number, (path, one) in enumerate(self.search.lists.items()):
            exports = [finding.export for finding in wanted if path in finding.missing and finding.export]
            if exports:
                click.echo(("\n" if number else "") + f"# {escape_controls(path, keep='')}")
            for export in exports:
                click.echo(one.entry(export))

    def _say(self, text: str) -> None:
        if not self.json:
            click.echo(text)

    def _did(self, event: str, text: str, **facts: Any) -> None:
        if self.json:
            JsonLines().event(event, **facts, dry_run=self.given["dry_run"])
        else:
            click.echo(("would write " if self.given["dry_run"] else "") + escape_controls(text, keep=""))


def _branch_name(names: Sequence[str]) -> str:
    return f"kabi-{names[0]}" if len(names) == 1 else "kabi-symbols"


def _tell(finding: Finding) -> None:
    export = finding.export
    JsonLines().event(
        "kabi-symbol",
        arch=finding.arch,
        symbol=finding.use.symbol,
        state=finding.state,
        crc=f"0x{export.crc:08x}" if export else None,
        module=export.module if export else None,
        export=export.kind if export else None,
        namespace=export.namespace if export else None,
        used_by=sorted(finding.use.modules),
        lists=finding.missing,
        reason=finding.reason,
    )


def _save(content: bytes, file: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pkgkmod-kabi-") as aside:
        made = Path(aside, "patch")
        made.write_bytes(content)
        move_into_place(made, file)
