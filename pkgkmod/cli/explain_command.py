"""explain: what a finished package needs, and whether a kernel has it."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options
from pkgkmod.cli.report import WIDTH, count, wrapped
from pkgkmod.errors import DifferentError, InputError, KernelError, UsageError, did_you_mean
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.modules.kmod_deps import Module
    from pkgkmod.packages.explain import Contents, Explanation, KernelSymbols, ModuleUse, Relation, State

_NAMED = 10  # symbols of a module that are named without -v
_REPEATED = 3  # problems in the error that follows the report
# Red Hat's kernel-core has the second, its kernel-devel the third; the last are those of older ones.
_SYMVERS = (
    "/lib/modules/{release}/build/Module.symvers",
    "/lib/modules/{release}/symvers.*",
    "/usr/src/kernels/{release}/Module.symvers",
    "/boot/symvers-{release}.*",
)
_STATES: dict[State, str] = {
    "same": "of the kernel",
    "own": "of this package",
    "provided": "of the packages with it",
    "other": "with another CRC",
    "missing": "not there",
    "refused": "not for this module",
    "not known": "of the kernel or other modules",
}


@click.command()
@click.argument("rpm", type=click.Path(path_type=Path), metavar="NAME.rpm")
@click.option("--kernel", metavar="RELEASE", help="Kernel to compare with; the running one if absent.")
@click.option("--symvers", type=click.Path(path_type=Path), metavar="FILE", help="Module.symvers to compare with.")
@click.option(
    "--with",
    "others",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PACKAGE",
    help="Package of a driver that this one needs; may be repeated.",
)
@command_options
@click.pass_context
def explain(
    ctx: click.Context, /, rpm: Path, kernel: str | None, symvers: Path | None, others: tuple[Path, ...], **given: Any
) -> None:
    """Say what a package of kernel modules requires and why, and whether a kernel has it.

    -v names all symbols. The exit code is 0 if the modules would load, and 19 if they would not.
    """
    from pkgkmod.packages.explain import explain as compare
    from pkgkmod.packages.explain import read_contents

    invocation: Invocation = ctx.obj.with_options(given)
    if kernel and symvers:
        raise UsageError("--kernel and --symvers do not go together", hint="give one of them")
    if not rpm.is_file():
        raise InputError(f"there is no file {rpm}")
    with tempfile.TemporaryDirectory(prefix="pkgkmod-explain-") as scratch:
        contents = read_contents(rpm, Path(scratch))
        providers = _providers(others, Path(scratch), invocation)
    explanation = compare(contents, _kernel(invocation, kernel, symvers, contents.releases), providers)
    if invocation.json_lines:
        _as_json(explanation)
    else:
        for line in _as_text(explanation, verbose=invocation.verbosity > 0):
            click.echo(line)
    if explanation.problems:
        _refuse(explanation, contents, providers)


def _providers(files: Sequence[Path], scratch: Path, invocation: Invocation) -> list[Module]:
    """Read the modules of the packages that are installed with it."""
    if not files:
        return []
    from pkgkmod.command import run
    from pkgkmod.modules.kmod_deps import ModuleError
    from pkgkmod.packages.modulefiles import find_files, module_files

    progress = invocation.progress()
    try:
        found = module_files(find_files(files), lambda one: run(one, log=scratch / "log", progress=progress))
        return [file.module for file in found]
    except ModuleError as error:
        raise InputError(f"a module of --with cannot be read: {error}") from None
    finally:
        progress.close()


def _refuse(explanation: Explanation, contents: Contents, providers: Sequence[Module]) -> None:
    """Raise the error, with the installed kernels that would do in its hint."""
    from pkgkmod.packages.explain import explain as compare
    from pkgkmod.packages.explain import read_kernel_symbols

    problems, kernel = explanation.problems, explanation.kernel
    fitting = []
    for path in sorted(Path("/lib/modules").glob("*/build/Module.symvers")):
        with contextlib.suppress(InputError):  # a file that cannot be read fits nothing
            other = read_kernel_symbols(path.parents[1].name, path)
            fitting += [other.release] if not compare(contents, other, providers).problems else []
    lines = problems[:_REPEATED]
    more = (f"and {len(problems) - _REPEATED} more",) if len(problems) > _REPEATED else ()
    hint = "build it for this kernel, or compare with the kernel that it is for: --kernel RELEASE"
    if fitting:
        hint = f"of the installed kernels, it would load into {', '.join(fitting)}"
    elif {use.state for module in explanation.modules for use in module.in_state("other", "missing")} == {"missing"}:
        hint = "the package of a driver that exports what is not there comes with --with PACKAGE"
    raise DifferentError(
        f"{explanation.package} does not fit {_kernel_name(kernel)}", details="\n".join((*lines, *more)), hint=hint
    )


def _kernel(
    invocation: Invocation, wanted: str | None, symvers: Path | None, releases: Sequence[str]
) -> KernelSymbols | None:
    """Return the kernel that was asked for; else the running one, or one that the package was built for."""
    from pkgkmod.packages.explain import read_kernel_symbols

    if symvers:
        return read_kernel_symbols("", symvers)
    for release in (wanted,) if wanted else (platform.release(), *releases):
        if file := _installed_symvers(release):
            return read_kernel_symbols(release, file)
    if not wanted:
        return None
    known = _built_trees(invocation)
    if wanted not in known:
        raise KernelError(
            f"what the kernel {wanted} exports is not known",
            hint=did_you_mean(wanted, known) or "install its headers, or name its Module.symvers with --symvers",
        )
    return read_kernel_symbols(wanted, known[wanted] / "Module.symvers")


def _installed_symvers(release: str) -> Path | None:
    from pkgkmod.model.kernel import KernelRelease

    try:
        KernelRelease(release)
    except ValueError:
        return None
    found = (path for place in _SYMVERS for path in sorted(Path("/").glob(place.format(release=release)[1:])))
    return next((path for path in found if path.is_file()), None)


def _built_trees(invocation: Invocation) -> dict[str, Path]:
    """Return the build trees of kernels that are here: installed, in folders, in the store."""
    from pkgkmod.config.load import load_settings
    from pkgkmod.kernels.select import available_kernels, local_kernels
    from pkgkmod.kernels.store import Store
    from pkgkmod.model.kernel import KernelOffer
    from pkgkmod.network import stay_offline

    if invocation.config.exists():
        loaded = invocation.load()
        project, base = loaded.project, loaded.folder
    else:
        project, base = load_settings(invocation.overrides), Path.cwd()
    stay_offline()
    try:
        found = available_kernels(project, base)
    except KernelError:  # an index that was never fetched
        found = local_kernels(project, base)
    store = Store()
    here = [k for k in found if not isinstance(k, KernelOffer) or store.has(k)]
    kernels = [store.kernel(k) if isinstance(k, KernelOffer) else k for k in here]
    return {kernel.uname_r: kernel.place for kernel in kernels}


def _kernel_name(kernel: KernelSymbols | None) -> str:
    return "the kernel" if kernel is None else kernel.release or kernel.place


def _as_text(explanation: Explanation, *, verbose: bool) -> Iterator[str]:
    kernel = explanation.kernel
    yield click.style(escape_controls(explanation.package, keep=""), bold=True)
    yield from wrapped(explanation.summary, "  ")
    if kernel:
        where = f" ({kernel.place})" if kernel.release else ""
        yield from wrapped(f"Compared with {_kernel_name(kernel)}{where}.", "  ")
    else:
        yield from wrapped("There is no kernel at hand to compare with; --kernel or --symvers name one.", "  ")
    yield from _section("Modules", [_module_lines(module, verbose=verbose) for module in explanation.modules])
    for kind in ("requires", "conflicts", "provides", "supplements"):
        relations = explanation.relations[kind]
        yield from _section(kind.title(), [_relation_lines(relation, verbose=verbose) for relation in relations])
    scriptlets = explanation.scriptlets.items()
    rows = [_row(name, f"runs {', '.join(tools)}" if tools else "") for name, tools in scriptlets]
    yield from _section("Scriptlets", rows)
    if not explanation.modules:
        yield from ("", "There is no kernel module in it.")
    elif kernel and not explanation.problems:
        yield from ("", click.style(f"It would load into {_kernel_name(kernel)}.", fg="green"))


def _section(title: str, parts: Sequence[Iterator[str]]) -> Iterator[str]:
    if parts:
        yield from ("", click.style(title, bold=True))
    for part in parts:
        yield from part


def _module_lines(module: ModuleUse, *, verbose: bool) -> Iterator[str]:
    from pkgkmod.packages.explain import BAD, crc, problem

    counts = Counter(use.state for use in module.symbols)
    parts = [f"{counts[state]} {words}" for state, words in _STATES.items() if counts[state]]
    text = f"needs {count(len(module.symbols), 'symbol')}: {', '.join(parts)}" if parts else "needs no symbols"
    if module.exports:
        text += f"; exports {module.exports}"
    yield from _row(module.path.rpartition("/")[2], f"built for {module.release or 'an unknown kernel'}; {text}")
    bad = module.in_state(*BAD)
    for use in bad if verbose else bad[:_NAMED]:
        yield from wrapped(problem(use), "    ", colour="red")
    if not verbose and len(bad) > _NAMED:
        yield f"    and {len(bad) - _NAMED} more; -v names all"
    for name in module.firmware:
        yield from wrapped(f"loads the firmware {name}", "    ")
    for use in module.symbols if verbose else ():
        if use.state not in BAD:
            yield from wrapped(f"{use.symbol}  {crc(use.needed)}  {_STATES[use.state]}", "    ")


def _relation_lines(relation: Relation, *, verbose: bool) -> Iterator[str]:
    several = len(relation.texts) > 1
    first = relation.texts[0]
    label = f"{len(relation.texts)} x {first.partition('(')[0]}(...)" if several else first
    words = relation.words
    if relation.moments:
        words += f"{'; ' if words else ''}for {', '.join(relation.moments)}"
    if relation.unmet:
        words += f"; {len(relation.unmet) if several else 'this'} {'are' if len(relation.unmet) > 1 else 'is'} not met"
    yield from _row(label, words, colour="red" if relation.unmet else None)
    if several and verbose:
        for text in relation.texts:
            yield from wrapped(text, "      ", colour="red" if text in relation.unmet else None)


def _row(label: str, text: str, *, colour: str | None = None) -> Iterator[str]:
    """Yield a name and what is said of it, beside it or below it."""
    label, text = escape_controls(label, keep=""), escape_controls(text, keep="")
    column = 30
    if len(label) > column - 4:
        yield click.style(f"  {label}", fg=colour)
        yield from wrapped(text, "      ", colour=colour) if text else ()
        return
    lines = textwrap.wrap(text, WIDTH - column) or [""]
    for number, line in enumerate(lines):
        yield click.style(f"  {'' if number else label:{column - 2}}{line}".rstrip(), fg=colour)


def _as_json(explanation: Explanation) -> None:
    kernel = explanation.kernel
    out = JsonLines()
    about = {"release": kernel.release, "symvers": kernel.place} if kernel else None
    out.event("package", name=explanation.package, summary=explanation.summary, kernel=about)
    for module in explanation.modules:
        out.event("module", **asdict(module))
    for kind, relations in explanation.relations.items():
        for relation in relations:
            out.event("dependency", relation=kind, **asdict(relation))
    for name, tools in explanation.scriptlets.items():
        out.event("scriptlet", name=name, runs=tools)
    fits = None if kernel is None else not explanation.problems
    out.event("verdict", fits=fits, problems=explanation.problems)
