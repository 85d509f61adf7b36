"""How predictions look: a table of kernels and modules, or a list where there are many; and why a module is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from pkgkmod.cli.report import WIDTH, count, print_table, wrapped
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.model.prediction import Prediction, SymbolTrouble, TroubleKind
    from pkgkmod.packages.loading import WeakUpdate

_NAMED = 10  # modules of a kernel that are named without -v
_KERNELS = 3  # kernels that are named in a row
_COLOURS = {"loads": "green", "refused": "red", "unknown": "yellow"}
_KINDS: dict[TroubleKind, str] = {
    "missing": "not there",
    "other crc": "with another CRC",
    "no crc": "without a CRC in the module",
    "gpl only": "for GPL modules only",
    "namespace": "of a namespace that is not imported",
    "reserved": "for other modules only",
}


def show_json(
    every: Mapping[str, Sequence[Prediction]], best: Mapping[str, Sequence[Prediction]], weak: Iterable[WeakUpdate]
) -> None:
    """Print an event for each build and kernel, and one for each weak update."""
    out = JsonLines()
    for kernel, ones in every.items():
        for one in ones:
            out.event("prediction", **one.model_dump(), counts=one in best[kernel])
    for update in weak:
        out.event(
            "weak_update",
            package=update.package,
            built_for=update.built_for,
            kernel=update.kernel,
            modules=update.modules,
            complete=update.complete,
        )


def show_text(
    best: Mapping[str, Sequence[Prediction]], weak: Sequence[WeakUpdate], *, why: bool, verbose: bool
) -> None:
    """Print the table, or the list, and what is behind it."""
    names = sorted({one.module for ones in best.values() for one in ones})
    header, rows = _cells(best, names)
    if _width(header, rows) <= WIDTH:
        print_table(header, rows)
        _print_needs(best)
        _print_reasons(best, why=why)
    else:
        for kernel, ones in best.items():
            _print_kernel(kernel, ones, why=why, verbose=verbose)
    _print_weak(weak)


def _cells(best: Mapping[str, Sequence[Prediction]], names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for kernel, ones in best.items():
        words = {one.module: _word(one) for one in ones}
        rows.append([kernel, *(words[name] for name in names)])
    return ["KERNEL", *names], rows


def _word(prediction: Prediction) -> str:
    if prediction.verdict == "loads" and prediction.needs:
        return f"needs {len(prediction.needs)}"
    return prediction.verdict


def _width(header: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    columns = zip(header, *rows, strict=True)
    return sum(max(len(escape_controls(cell)) for cell in column) + 2 for column in columns) - 2


def _print_needs(best: Mapping[str, Sequence[Prediction]]) -> None:
    """Say which modules are loaded first, once for all kernels where it is the same."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for kernel, ones in best.items():
        for one in ones:
            if one.verdict == "loads" and one.needs:
                found.setdefault((one.module, one.needs), []).append(kernel)
    for number, ((module, needs), kernels) in enumerate(sorted(found.items())):
        if not number:
            click.echo()
        where = "" if len(kernels) == len(best) else f" in {_some(kernels)}"
        _say(f"{module} needs {', '.join(needs)}{where}", "")


def _print_reasons(best: Mapping[str, Sequence[Prediction]], *, why: bool) -> None:
    """Say why modules are refused, once for all kernels where it is the same but for the number of symbols."""
    found: dict[tuple[object, ...], list[Prediction]] = {}
    for ones in best.values():
        for one in ones:
            if one.verdict != "loads":
                exact = (
                    tuple(_symbols(one)) if why else tuple((kind, first.symbol) for kind, first in _kinds(one).items())
                )
                found.setdefault((one.module, one.verdict, one.reasons, exact), []).append(one)
    for group in sorted(found.values(), key=lambda group: group[0].module):
        first = group[0]
        click.echo()
        kernels = _some([one.kernel for one in group])
        head = f"refused by {kernels}" if first.verdict == "refused" else f"{first.verdict} with {kernels}"
        _say(f"{first.module}: {head}", "", first.verdict)
        for line in (*first.reasons, *(_symbols(first) if why else _counted(group))):
            _say(line, "  ")


def _print_kernel(kernel: str, ones: Sequence[Prediction], *, why: bool, verbose: bool) -> None:
    bad = [one for one in ones if one.verdict != "loads"]
    if not bad:
        _say(f"{kernel}: loads all {count(len(ones), 'module')}", "", "loads")
        return
    _say(f"{kernel}: loads {len(ones) - len(bad)} of {count(len(ones), 'module')}", "", "refused")
    common = list(_common(bad)) if len(bad) == len(ones) and not why else []
    for line in common:
        _say(f"all of them: {line}", "  ")
    if common and not verbose:
        return
    for one in bad if verbose or why else bad[:_NAMED]:
        lines = [*one.reasons, *(_symbols(one) if why else _counted([one]))]
        if why:
            _say(f"{one.module}: {one.verdict}", "  ")
            for line in lines:
                _say(line, "    ")
        else:
            _say(f"{one.module}: {'; '.join(lines)}", "  ")
    if not verbose and not why and len(bad) > _NAMED:
        _say(f"and {len(bad) - _NAMED} more; -v names all", "  ")


def _common(ones: Sequence[Prediction]) -> Iterator[str]:
    """Yield why none of the modules can be loaded, whatever else is wrong; of symbols that they share, the first."""
    yield from (reason for reason in ones[0].reasons if all(reason in one.reasons for one in ones))
    shared = (trouble for trouble in ones[0].troubles if all(trouble in one.troubles for one in ones))
    yield from (f"{trouble.symbol}: {trouble.text}" for trouble in itertools.islice(shared, 1))


def _symbols(prediction: Prediction) -> Iterator[str]:
    yield from (f"{trouble.symbol}: {trouble.text}" for trouble in prediction.troubles)


def _kinds(prediction: Prediction) -> dict[TroubleKind, SymbolTrouble]:
    """Return the first symbol of each kind."""
    found: dict[TroubleKind, SymbolTrouble] = {}
    for trouble in prediction.troubles:
        found.setdefault(trouble.kind, trouble)
    return found


def _counted(group: Sequence[Prediction]) -> Iterator[str]:
    """Yield for each kind of trouble how many symbols have it, and one of them with what its CRC covers."""
    kinds = _kinds(group[0])
    for kind, words in _KINDS.items():
        if kind in kinds:
            numbers = sorted({sum(one.kind == kind for one in prediction.troubles) for prediction in group})
            first = kinds[kind]
            number = f"{numbers[0]} to {numbers[-1]} symbols" if len(numbers) > 1 else count(numbers[0], "symbol")
            covered = first.text.partition("; it covers ")[2]
            named = f"{first.symbol}: {covered}" if covered else first.symbol
            yield f"{number} {words} ({named}{', ...' if numbers[-1] > 1 else ''})"


def _print_weak(weak: Sequence[WeakUpdate]) -> None:
    """Say into which kernels weak-modules would link a package's modules."""
    found: dict[tuple[str, str], list[WeakUpdate]] = {}
    for update in weak:
        found.setdefault((update.package, update.built_for), []).append(update)
    for (package, built_for), updates in sorted(found.items()):
        kernels = [one.kernel if one.complete else f"{one.kernel} ({', '.join(one.modules)} only)" for one in updates]
        click.echo()
        _say(f"{package}, built for {built_for}: weak-modules links it into {', '.join(kernels)}", "")


def _some(kernels: Sequence[str]) -> str:
    return ", ".join(kernels) if len(kernels) <= _KERNELS else f"{kernels[0]}, ... ({len(kernels)} kernels)"


def _say(text: str, indent: str, verdict: str = "") -> None:
    for line in wrapped(text, indent, colour=_COLOURS.get(verdict)):
        click.echo(line)
