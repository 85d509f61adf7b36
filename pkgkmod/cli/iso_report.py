"""What is on a driver disk, and what is wrong with it: as a table, or as a list where that is too wide; or as JSON."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import click

from pkgkmod.cli.report import count, print_table
from pkgkmod.media.contents import taken
from pkgkmod.progress import JsonLines, escape_controls, human_size

if TYPE_CHECKING:
    from pkgkmod.media.contents import Row, VolumeContents
    from pkgkmod.media.images import OpenedDisk
    from pkgkmod.model.finding import Finding

NAMED = 8
"""Files, packages and kernels that are named in a sentence."""

_HEADERS = ("INSTALLER", "RELEASE", "ARCH", "KERNEL", "MODULE", "PACKAGE")
_COLOURS = {"error": "red", "warning": "yellow", "note": None}


def finding_lines(one: Finding) -> Iterator[str]:
    """Yield a finding as lines for the terminal."""
    lines = _wrapped(one.line, first=len(one.severity) + 2)
    yield click.style(f"{one.severity}:", fg=_COLOURS[one.severity]) + f" {lines[0].lstrip()}"
    yield from lines[1:]


def _wrapped(text: str, *, first: int = 0) -> list[str]:
    """Return lines as wide as the terminal; `first` columns of the first one are taken."""
    return textwrap.wrap(
        escape_controls(text, keep=""),
        _width(),
        initial_indent=" " * first,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _width() -> int:
    """Return the columns of the terminal; what goes elsewhere has as many as it needs."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def show_text(disk: OpenedDisk, contents: Sequence[VolumeContents], kernel: str | None) -> None:
    """Print what is on a disk, or what the installer with a kernel takes."""
    size = f", {human_size(disk.size)}" if disk.size else ""
    labels = ""
    if len(contents) == 1 and not contents[0].volume.place and contents[0].volume.kind not in ("cpio", "folder"):
        labels = f", label {contents[0].volume.label or 'none'}"
    click.echo(escape_controls(f"{disk.path}: {disk.title}{labels}{size}", keep=""))
    for one in contents:
        if len(contents) > 1 or one.volume.place:
            click.echo(escape_controls(f"  {_volume_text(one)}", keep=""))
    rows = [row for one in contents for row in one.rows]
    chosen = rows if kernel is None else taken(rows, kernel)
    if chosen:
        click.echo()
        _show_rows(chosen)
    elif not rows:
        click.echo("no installer takes a module from it")
    if kernel is None:
        _show_others(contents)
        findings = [found for one in contents for found in one.findings]
        if findings:
            click.echo()
        for found in findings:
            for line in finding_lines(found):
                click.echo(line)


def _volume_text(one: VolumeContents) -> str:
    volume = one.volume
    label = f", label {volume.label or 'none'}" if volume.kind not in ("cpio", "folder") else ""
    files = "" if one.trees else f": {_named(one.rest) or 'empty'}"
    return f"{volume.place or 'archive'}: {volume.kind}{label}, {human_size(volume.size)}{files}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _show_others(contents: Sequence[VolumeContents]) -> None:
    """Name the packages without modules, and count what no installer looks at."""
    others = [
        package.shown
        for one in contents
        for tree in one.trees
        for package in tree.packages
        if not package.facts.modules
    ]
    rest = [path for one in contents if one.trees or len(contents) == 1 for path in one.rest]
    if others or rest:
        click.echo()
    if others:
        for line in _wrapped(f"without modules: {', '.join(dict.fromkeys(others))}"):
            click.echo(line)
    if rest:
        for line in _wrapped(f"{count(len(rest), 'file')} that no installer looks at: {_named(rest)}"):
            click.echo(line)


def _show_rows(rows: Sequence[Row]) -> None:
    """Print a table; where the terminal is too narrow for it, a list."""
    cells = list(
        dict.fromkeys(
            (row.installer, row.release or "?", row.machine, kernel_text(row), row.module.name, row.package)
            for row in rows
        )
    )
    widths = [max(map(len, column)) for column in zip(_HEADERS, *cells, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= _width():
        print_table(_HEADERS, _grouped(cells) if sys.stdout.isatty() else cells)
        return
    for tree, of_tree in groupby(cells, key=lambda cell: cell[:3]):
        click.echo(click.style(escape_controls(", ".join(filter(None, tree)), keep=""), bold=True))
        for package, of_package in groupby(of_tree, key=lambda cell: cell[5]):
            click.echo(f"  {escape_controls(package, keep='')}")
            for _, _, _, kernel, module, _ in of_package:
                click.echo(escape_controls(f"    {module}  {kernel}", keep=""))


def kernel_text(row: Row) -> str:
    """Return the kernels that a module is for, in words."""
    return row.kernel.removeprefix("= ") or "none"


def _grouped(cells: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Yield rows without the first cells that are the same as above."""
    above: Sequence[str] = ()
    for row in cells:
        same = next((n for n, (one, other) in enumerate(zip(row, above, strict=False)) if one != other), len(above))
        yield ["" if n < same else cell for n, cell in enumerate(row)]
        above = row


def show_devices(rows: Sequence[Row], *, json_lines: bool) -> None:
    """Print the devices that modules are for."""
    from pkgkmod.modules.hardware import DeviceNames, device_lines

    names = DeviceNames()
    aliases: dict[str, set[str]] = {}
    for row in rows:
        aliases.setdefault(row.module.name, set()).update(row.module.aliases)
    lines = [(name, line) for name, ones in sorted(aliases.items()) for line in device_lines(ones, names)]
    if json_lines:
        for name, line in lines:
            JsonLines().event("device", module=name, bus=line.bus, ids=line.ids, name=line.name)
        return
    click.echo()
    if not lines:
        click.echo("the modules name no devices")
        return
    print_table(("MODULE", "BUS", "IDS", "DEVICE"), _grouped([(m, one.bus, one.ids, one.name) for m, one in lines]))
    if hint := names.hint(line.bus for _, line in lines):
        click.echo(hint, err=True)


def show_json(disk: OpenedDisk, contents: Sequence[VolumeContents], kernel: str | None) -> None:
    """Print the same for programs: an object for each file system, folder, package, module and finding."""
    out = JsonLines()
    out.event("disk", file=disk.path, carrier=disk.carrier, title=disk.title, size=disk.size)
    for number, one in enumerate(contents):
        volume = one.volume
        facts = {"format": volume.kind, "label": volume.label, "size": volume.size, "place": volume.place}
        out.event("volume", volume=number, **facts)
        for tree in one.trees:
            said = {"layout": tree.layout.name, "installer": tree.layout.title}
            facts = {**said, "release": tree.release, "machine": tree.found.machine}
            out.event("tree", volume=number, place=tree.found.place, **facts)
            for package in tree.packages:
                said = package.facts.model_dump(exclude={"modules", "kind"}) | {"type": package.facts.kind}
                out.event("disk-package", volume=number, tree=tree.found.place, path=package.shown, **said)
        for row in one.rows if kernel is None else taken(one.rows, kernel):
            facts = {"installer": row.installer, "release": row.release, "machine": row.machine, "kernel": row.kernel}
            said = row.module.model_dump(exclude={"machine"})
            out.event("disk-module", volume=number, package=row.package, **facts, **said)
        for found in one.findings:
            out.event("finding", volume=number, **found.model_dump())
        out.event("rest", volume=number, files=len(one.rest), names=one.rest[:NAMED])
