"""What `pkgkmod sign` does with packages that are finished: sign, hand out, take back, verify."""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

import click

from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.report import count
from pkgkmod.cli.sign_command import key_settings, make_folder
from pkgkmod.command import Command, Completed, run
from pkgkmod.errors import InputError, UsageError, did_you_mean
from pkgkmod.model.fields import HashName
from pkgkmod.model.packaging import Signing
from pkgkmod.progress import JsonLines, Progress, escape_controls, human_size
from pkgkmod.signing import detached
from pkgkmod.signing.packages import (
    Signatures,
    find_packages,
    is_rpm,
    module_paths,
    modules_to_sign,
    settled,
    sign_set,
    verify_files,
    verify_packages,
    wanted_signatures,
)
from pkgkmod.signing.rpmsign import export_public_key, find_package_key, keyring
from pkgkmod.workspace import Workspace

_HASHES = tuple(name for name in get_args(HashName) if name)


def files(invocation: Invocation, given: Mapping[str, Any]) -> None:
    """Sign the files that are named."""
    _hash(given)
    with _session(invocation) as session:
        signing, base = _signing(invocation, given)
        if not signing.is_on:
            raise UsageError(
                "there is no key to sign with",
                hint="give --key and --certificate for the modules, or --package-key for the packages",
            )
        hash = signing.module_hash or "sha256"
        wanted = wanted_signatures(signing, base, lambda _: hash, session.run, session.progress)
        _deliver(session, given, wanted, invocation)


def import_signatures(invocation: Invocation, given: Mapping[str, Any]) -> None:
    """Put signatures that were made elsewhere into packages."""
    if not given["certificate"]:
        raise UsageError("--import-signatures needs --certificate", hint="the certificate of the key that signed")
    with _session(invocation) as session:
        settings = {**key_settings(given), "signing.module_signatures": str(given["import_signatures"])}
        signing = _checked(settings)
        hash = _hash(given)
        wanted = wanted_signatures(signing, Path.cwd(), lambda _: hash, session.run, session.progress)
        _deliver(session, given, wanted, invocation)


def export_hashes(invocation: Invocation, given: Mapping[str, Any]) -> None:
    """Hand out the digests of the modules in packages."""
    folder: Path = given["export_hashes"]
    hash = _hash(given)
    with _session(invocation) as session:
        sources = _sources(invocation, given)
        _need_modules(sources, session)
        if given["dry_run"]:
            _show(sources, session, f"would hand out to {folder}")
            return
        with session.progress.step(f"digests of {count(len(sources), 'package')}"):
            number = detached.export(
                modules_to_sign(sources, lambda _: hash, session.run), folder, contents=given["contents"]
            )
    if invocation.json_lines:
        JsonLines().event("exported", folder=folder, digests=number)
    else:
        click.echo(f"{folder}: {count(number, 'digest')} to sign; README.txt there says how")


def verify(invocation: Invocation, given: Mapping[str, Any]) -> None:
    """Tell whether packages are signed; an error lists all that are not."""
    with _session(invocation) as session:
        sources = _sources(invocation, given, "sign")
        certificate, public_key = given["certificate"], given["public_key"]
        signer = public_key
        if not certificate and not public_key:
            signing, base = _signing(invocation, given)
            certificate = settled(signing.module_certificate, base) if signing.module_certificate else None
            if signing.package_key:
                key = find_package_key(signing.package_key, keyring(signing.gpg_home, base))
                public_key, signer = session.scratch / "public-key.asc", key.fingerprint
                export_public_key(key, public_key)
        if not certificate and not public_key:
            raise UsageError("verify with what?", hint="give --certificate for modules, --public-key for packages")
        said = []
        if certificate:
            _need_modules(sources, session)
            with session.progress.step("verifying modules"):
                number = verify_packages(sources, Path(certificate).expanduser(), session.run)
            said.append(f"{count(number, 'module')} signed with {certificate}")
        if public_key:
            with session.progress.step("verifying packages"):
                verify_files(sources, Path(public_key), session.scratch, session.run)
            said.append(f"{_counted(sources)} signed with {signer}")
    if invocation.json_lines:
        JsonLines().event("verified", files=[str(source) for source in sources])
    else:
        click.echo(escape_controls("; ".join(said)))


def _hash(given: Mapping[str, Any]) -> str:
    hash: str = given["hash"] or "sha256"
    if hash not in _HASHES:
        hint = did_you_mean(hash, _HASHES) or f"known: {', '.join(_HASHES)}"
        raise UsageError(f"modules cannot be signed with the hash '{hash}'", hint=hint)
    return hash


@dataclass(frozen=True)
class _Session:
    progress: Progress
    scratch: Path
    run: Callable[[Command], Completed]


@contextmanager
def _session(invocation: Invocation) -> Iterator[_Session]:
    progress = invocation.progress()
    try:
        with tempfile.TemporaryDirectory(prefix="pkgkmod-") as folder:
            scratch = Path(folder)
            yield _Session(progress, scratch, lambda command: run(command, log=scratch / "log", progress=progress))
    finally:
        progress.close()


def _signing(invocation: Invocation, given: Mapping[str, Any]) -> tuple[Signing, Path]:
    """Return the keys, and where their paths begin: those of the options, or else of the project in this folder."""
    settings = key_settings(given)
    if not settings:
        if not invocation.config.exists():
            return Signing(), Path.cwd()
        loaded = invocation.load()
        return loaded.project.signing, loaded.folder
    return _checked(settings), Path.cwd()


def _checked(settings: Mapping[str, Any]) -> Signing:
    """Return options as settings; raise UsageError, in the words of options, if they are not whole."""
    from pydantic import ValidationError

    try:
        return Signing.model_validate({key.partition(".")[2]: value for key, value in settings.items()})
    except ValidationError as error:
        said = [(".".join(map(str, one["loc"])), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
        words = "; ".join(f"{place} {words}".strip() for place, words in said)
        words = words.replace("module_signatures", "import_signatures")
        for name in (*Signing.model_fields, "import_signatures"):
            words = words.replace(name, f"--{name.removeprefix('module_').replace('_', '-')}")
        raise UsageError(words, hint="`pkgkmod sign --help` lists the options") from None


def _sources(invocation: Invocation, given: Mapping[str, Any], *stages: str) -> tuple[Path, ...]:
    """Return the packages that are named, or else those of the project: the newest of each target and kernel."""
    if given["files"]:
        return find_packages(given["files"])
    workspace = Workspace(invocation.load().folder)
    stages = stages or ("build_rpm", "build_deb")
    keys = dict.fromkeys((made.stage, made.target, made.kernel) for made in workspace.all() if made.stage in stages)
    found = [result for key in keys if (result := workspace.newest(*key)) and result.state == "ok"]
    found = [result for result in found if not given["target"] or result.target in given["target"]]
    wanted = given["kernel"]
    found = [result for result in found if not wanted or any(fnmatchcase(result.kernel, one) for one in wanted)]
    if not found:
        names = " or ".join(stages)
        raise UsageError(
            f"the project has no results of {names} here", hint=f"run `pkgkmod {stages[0]}`, or name the packages"
        )
    return tuple(result.folder / package["file"] for result in found for package in result.artifact["packages"])


def _need_modules(sources: Sequence[Path], session: _Session) -> None:
    if not any(module_paths(source, session.run) for source in sources):
        raise InputError(
            f"there is no kernel module in {count(len(sources), 'package')}",
            details="\n".join(source.name for source in sources),
            hint="modules are looked for in /lib/modules and /usr/lib/modules, as .ko, .ko.gz, .ko.xz and .ko.zst",
        )


def _show(sources: Sequence[Path], session: _Session, what: str) -> None:
    for source in sources:
        modules = module_paths(source, session.run)
        click.echo(escape_controls(f"{what}: {source.name}, {count(len(modules), 'module')}"))


def _deliver(session: _Session, given: Mapping[str, Any], wanted: Signatures, invocation: Invocation) -> None:
    """Sign packages aside, and put them where they were asked for once all of them are verified."""
    sources, output = _distinct(_sources(invocation, given)), given["output"]
    if output is None:
        raise UsageError("where to put the signed packages?", hint="give a folder: -o DIR")
    targets = [output / source.name for source in sources]
    if wanted.sign:
        _need_modules(sources, session)
    if given["dry_run"]:
        _show(sources, session, "would sign")
        return
    if not given["force"] and (there := [path for path in targets if path.exists()]):
        raise UsageError(
            f"{there[0]} is there already" + (f", and {len(there) - 1} more" if there[1:] else ""),
            hint="name another folder, or write over them with --force",
        )
    make_folder(output)
    with tempfile.TemporaryDirectory(prefix=".pkgkmod-sign-", dir=output) as aside:
        with session.progress.step(f"signing {_counted(sources)}"):
            number = sign_set(
                sources, Path(aside), wanted, scratch=session.scratch, run=session.run, progress=session.progress
            )
        for target in targets:
            (Path(aside) / target.name).replace(target)
    _tell(targets, number, invocation)


def _counted(files: Sequence[Path]) -> str:
    """Say how many packages there are; a set of Debian's has other files, too."""
    return count(len(files), "package" if all(is_rpm(file) for file in files) else "file")


def _distinct(sources: Sequence[Path]) -> tuple[Path, ...]:
    """Return each file once: several source packages of Debian's may share an archive of upstream's."""
    found: dict[str, Path] = {}
    for source in sources:
        if not filecmp.cmp(found.setdefault(source.name, source), source, shallow=False):
            raise InputError(f"two packages are called {source.name}", hint="give each package once")
    return tuple(found.values())


def _tell(targets: Sequence[Path], modules: int, invocation: Invocation) -> None:
    if invocation.json_lines:
        JsonLines().event("signed", files=[str(target) for target in targets], modules=modules)
        return
    for target in targets:
        click.echo(escape_controls(f"{target}  {human_size(target.stat().st_size)}"))
    click.echo(f"{_counted(targets)}, {count(modules, 'module')} signed and verified")
