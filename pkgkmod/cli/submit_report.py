"""What `pkgkmod submit status` shows: each build of a few source packages; of many, counts and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from pkgkmod.cli.report import count, print_table
from pkgkmod.progress import JsonLines, escape_controls

if TYPE_CHECKING:
    from pkgkmod.model.submission import Submission

_FEW = 30
"""Builds that are shown one by one without being asked for."""
_FAILURES = 20
"""Of many source packages, those that failed and are shown."""
_NOT_KNOWN = "may not have arrived"
_STANDINGS = (_NOT_KNOWN, "failed", "cancelled", "building", "waiting", "sent", "succeeded")
"""How a source package stands: the first of these that one of its builds does."""


def print_status(found: Sequence[Submission], *, json_lines: bool, verbose: bool) -> None:
    """Print how submissions stand."""
    if json_lines:
        for one in found:
            JsonLines().event("submission", **one.model_dump(mode="json", exclude={"ticket", "request"}))
        return
    if not found:
        click.echo("nothing was submitted")
        return
    if verbose or sum(len(one.builds) or 1 for one in found) <= _FEW:
        _print_builds(found)
        return
    _print_counts(found)
    bad = [one for one in found if one.failed or _standing(one) == _NOT_KNOWN]
    if bad:
        click.echo()
        _print_complaints(bad[:_FAILURES])
    left = f"{count(len(bad) - _FAILURES, 'failure')} more; " if len(bad) > _FAILURES else ""
    click.echo(f"\n{left}`pkgkmod submit status -v` shows all {len(found)}")


def _print_counts(found: Sequence[Submission]) -> None:
    """Print how many source packages of each target stand how."""
    counts: dict[str, Counter[str]] = {}
    for one in found:
        mine = counts.setdefault(one.target, Counter())
        mine.update([_standing(one), *(["fetched"] if one.fetched else [])])
    states = [state for state in (*_STANDINGS, "fetched") if any(state in mine for mine in counts.values())]
    rows = [(target, *(str(mine[state] or "") for state in states)) for target, mine in counts.items()]
    print_table(("TARGET", *(state.upper() for state in states)), rows)


def _standing(one: Submission) -> str:
    """Return how a source package stands: by its worst build, or the one that is still to come."""
    if one.state == "sending":
        return _NOT_KNOWN
    states: set[str] = {build.state for build in one.builds}
    states = states or {"sent"}
    return next(state for state in _STANDINGS if state in states)


def _print_builds(found: Sequence[Submission]) -> None:
    rows = [tuple(escape_controls(cell, keep="") for cell in row) for one in found for row in _rows(one)]
    print_table(("TARGET", "PACKAGE", "BUILD", "STATE", ""), rows)
    _print_complaints([one for one in found if one.state == "sent"])


def _print_complaints(found: Sequence[Submission]) -> None:
    """Print why builds failed."""
    for one in found:
        if one.state == "sending":
            click.echo(f"{one.id}: {_NOT_KNOWN}")
        for build in one.failed:
            told = f"{one.id} {build.title}: {build.reason or build.state} {build.url}".rstrip()
            click.echo(escape_controls(told, keep=""))


def _rows(one: Submission) -> Iterator[tuple[str, str, str, str, str]]:
    if one.state == "sending":
        yield one.id, one.package, "", _NOT_KNOWN, ""
    for build in one.builds:
        yield one.id, one.package, build.title, build.state, "fetched" if one.fetched else ""
    if one.state == "sent" and not one.builds:
        yield one.id, one.package, "", "sent", ""
