"""sign: the stage of that name, finished packages from elsewhere, the flow for keys in a vault, and a key for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pkgkmod.cli.builder_choice import BUILDER
from pkgkmod.cli.invocation import Invocation
from pkgkmod.cli.options import command_options, with_options
from pkgkmod.errors import InputError, UsageError

_PATH = click.Path(path_type=Path)
_KEYS = {
    "key": "signing.module_key",
    "certificate": "signing.module_certificate",
    "hash": "signing.module_hash",
    "package_key": "signing.package_key",
    "gpg_home": "signing.gpg_home",
}
"""Options, and the keys of the project that they set."""
_MODES = ("export_hashes", "import_signatures", "new_key", "verify")

_OPTIONS = [
    click.option("--key", metavar="KEY", help="Private key for the modules: a PEM file, or a pkcs11: URI."),
    click.option("--certificate", metavar="FILE", help="Certificate of that key, PEM or DER."),
    click.option("--hash", metavar="NAME", help="Digest to sign (sha256; in a project, the kernel's own)."),
    click.option("--package-key", metavar="ID", help="GPG key that signs the packages."),
    click.option("--gpg-home", metavar="DIR", help="Folder of the GPG keyring (~/.gnupg)."),
    click.option("-o", "--output", type=_PATH, metavar="DIR", help="Where the signed FILES go."),
    click.option("--export-hashes", type=_PATH, metavar="DIR", help="Write what a vault has to sign to DIR."),
    click.option("--contents", is_flag=True, help="With --export-hashes: the modules, too, not only their digests."),
    click.option("--import-signatures", type=_PATH, metavar="DIR", help="Put the signatures that came back in."),
    click.option("--verify", is_flag=True, help="Only tell whether FILES, or the project's results, are signed."),
    click.option("--public-key", type=_PATH, metavar="FILE", help="With --verify: armored key of the packages."),
    click.option("--new-key", type=_PATH, metavar="DIR", help="Make a key for tests in DIR, and tell how to enrol it."),
    click.option("--name", default="Key for test modules", metavar="CN", help="With --new-key: its name."),
    click.option("--days", default=365, metavar="N", help="With --new-key: how long it is valid."),
    click.option("--target", multiple=True, metavar="NAME", help="Only this target; may be given several times."),
    click.option("--kernel", multiple=True, metavar="RELEASE", help="Only this kernel or pattern."),
    BUILDER,
    click.option("-f", "--force", is_flag=True, help="Sign although nothing changed; write over files in -o DIR."),
    click.option("-n", "--dry-run", is_flag=True, help="Show what would be done only."),
]


@click.command()
@click.argument("files", nargs=-1, type=_PATH)
@with_options(_OPTIONS)
@command_options
@click.pass_context
def sign(ctx: click.Context, /, **given: Any) -> None:
    """Sign the modules in finished packages, and the packages.

    Without FILES, the packages of the project are built and signed with the keys in its table [signing]. With FILES
    (RPMs, DEBs, a .dsc or .changes with what it lists, or folders of these), they are signed and written to -o DIR;
    no project is needed. A package keeps its name, version, dependencies and scripts; only modules, digests and
    signatures change. Of Debian's packages, .dsc, .buildinfo and .changes are signed.

    A passphrase or PIN is read from the variable KBUILD_SIGN_PIN.
    """
    chosen = [name for name in _MODES if given[name]]
    if len(chosen) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise UsageError(f"{names} do not go together", hint="give one of them")
    # -o is the folder for the packages here.
    invocation: Invocation = ctx.obj.with_options({**given, "output": None})
    ctx.find_root().obj = invocation
    mode = chosen[0] if chosen else "files" if given["files"] else "stage"
    _check_options(mode, given)
    if mode == "new_key":
        _new_key(given)
    elif mode == "stage":
        _stage(invocation, given)
    else:
        from pkgkmod.cli import sign_files

        getattr(sign_files, mode)(invocation, given)


def _check_options(mode: str, given: Mapping[str, Any]) -> None:
    """Refuse options that would be ignored."""
    of_mode = {"contents": "export_hashes", "public_key": "verify"}
    for name, needed in of_mode.items():
        if given[name] and mode != needed:
            raise UsageError(f"--{name.replace('_', '-')} goes with --{needed.replace('_', '-')}")
    if given["output"] and mode not in ("files", "import_signatures"):
        raise UsageError(
            "-o is where signed FILES go, and there are none to sign",
            hint="name the packages to sign; the project's own are found with `pkgkmod status`",
        )
    if given["builder"] and mode != "stage":
        raise UsageError("--builder makes the project's packages, and here none are made", hint="leave it out")
    if given["hash"] and mode in ("import_signatures", "verify"):
        raise UsageError(f"--hash does not go with --{mode.replace('_', '-')}", hint="the signatures have their own")
    if given["key"] and mode in ("import_signatures", "export_hashes", "verify"):
        raise UsageError(
            f"--key does not go with --{mode.replace('_', '-')}", hint="there, only the certificate is needed"
        )


def key_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the project that options set; paths are made absolute, since options begin here."""
    settings: dict[str, Any] = {}
    for option, key in _KEYS.items():
        value = given[option]
        is_path = option in ("key", "certificate", "gpg_home") and not str(value).lower().startswith("pkcs11:")
        if value:
            settings[key] = os.path.abspath(Path(value).expanduser()) if is_path else value
    return settings


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder where there is none; raise InputError if that cannot be."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {path} cannot be made: {error.strerror}", hint="name another one") from None


def _stage(invocation: Invocation, given: Mapping[str, Any]) -> None:
    from pkgkmod.cli.run_commands import run_stages

    invocation = invocation.with_settings(key_settings(given))
    if not invocation.load().project.signing.is_on:
        raise UsageError(
            "the project has no key to sign with",
            hint="set module_key and module_certificate, or package_key, in [signing]; or name the packages to sign",
        )
    run_stages(invocation, ("sign",), given, force=("sign",) if given["force"] else ())


def _new_key(given: Mapping[str, Any]) -> None:
    from pkgkmod.signing.keys import new_key

    if given["files"]:
        raise UsageError("--new-key signs nothing", hint="sign FILES with the new key in a second call")
    if given["dry_run"]:
        click.echo(f"would make mok.key, mok.pem and mok.der in {given['new_key']}")
        return
    make_folder(given["new_key"], mode=0o700)
    made = new_key(given["new_key"], given["name"], given["days"])
    for path in (made.key, made.certificate, made.certificate_der):
        click.echo(str(path))
    click.echo(f"\n{made.enrol}", nl=False)
