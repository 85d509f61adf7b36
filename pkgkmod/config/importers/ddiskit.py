"""What a ddiskit project says, in our keys: one rule for each key, and a report in which every value appears."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pkgkmod import data
from pkgkmod.config.importers.ddiskitini import SECTIONS, Key, Settings
from pkgkmod.config.importers.ddiskittexts import LEFT_OUT, MADE_UP, PACKAGING_TEXTS
from pkgkmod.config.importers.dependencies import split_dependencies
from pkgkmod.config.importers.projectfile import refusal
from pkgkmod.config.importers.report import Entry, Outcome
from pkgkmod.errors import ConfigError, did_you_mean

_TRUE = ("t", "y", "true", "yes", "1")
_FALSE = ("f", "n", "false", "no", "0")
_DIST = re.compile(r"\.?(?P<distro>el\d+)(?:[_.](?P<minor>\d+))?(?P<rest>.*)")
# ddiskit's own form; without an architecture, which stands in kernel_arch.
_KERNEL = re.compile(r"\d+\.\d+\.\d+-\d+(?:\.\d+)*\.el\d+(?:_\d+)?")
_ARCHES = ("x86_64", "aarch64", "ppc64le", "s390x", "ppc64", "i686", "riscv64")
_OPTION = re.compile(r"CONFIG_(?P<name>[A-Za-z0-9_]+)=(?P<value>[ymn])")


@dataclass
class Conversion:
    """The project file in the making."""

    settings: Settings
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[str, str], Key] = field(default_factory=dict)
    """Which of ddiskit's keys decided about a table's key."""
    entries: list[Entry] = field(default_factory=list)
    done: set[Key] = field(default_factory=set)

    def report(self, key: Key, outcome: Outcome, text: str) -> None:
        """Note what became of a value, if somebody gave it; the first word about it counts."""
        given = self.settings.given.get(key)
        if key in self.done or given is None:
            return
        self.done.add(key)
        value = self.settings.values.get(key, given.text)
        self.entries.append(Entry(".".join(key), value.strip(), outcome, text, given.place))

    def put(self, table: str, name: str, value: Any, key: Key) -> None:
        """Set a key of the project file."""
        self.values.setdefault(table, {})[name] = value
        self.origins[table, name] = key

    def carry(self, key: Key, table: str, name: str, value: Any, nearest: Any = None) -> bool:
        """Set a key if the models take the value, or else `nearest`; tell whether one of them was taken."""
        why = refusal(table, name, value)
        if not why:
            self.put(table, name, value, key)
            self.report(key, "carried", f"{table}.{name}")
            return True
        if nearest not in (None, "") and not refusal(table, name, nearest):
            self.put(table, name, nearest, key)
            self.report(key, "changed", f"{table}.{name} = {nearest!r}: {why}")
            return True
        self.report(key, "decide", f"not taken for {table}.{name}: {why}")
        return False


Rule = Callable[[Conversion, Key, str], None]


def convert(settings: Settings, folder: Path) -> Conversion:
    """Return what the project file is to say; `folder` is the project's, for its name.

    Every value that some layer gives appears in the report. Raise ConfigError if there is not even a name.
    """
    made = Conversion(settings)
    for key, given in settings.given.items():
        if settings.is_unset(settings.values[key]) and key not in _DERIVED:
            made.report(key, "left out", "not filled in: it is still what the template has")
        elif not given.text.strip():
            made.report(key, "left out", "empty")
    for key, rule in RULES.items():
        if value := settings.get(*key):
            rule(made, key, value)
    _name(made, folder)
    _target(made)
    for key in settings.given:
        made.report(key, "left out", LEFT_OUT.get(key) or _unknown(key))
    order = {".".join(key): number for number, key in enumerate(settings.given)}
    made.entries.sort(key=lambda entry: order.get(entry.key, len(order)))
    return made


def _unknown(key: Key) -> str:
    known = sorted({name for section, name in (*RULES, *LEFT_OUT, *_TARGET_KEYS) if section == key[0]})
    if key[0] not in SECTIONS:
        return "ddiskit has no such section, except as a store of words for other values"
    return "no key of ddiskit; " + (did_you_mean(key[1], known) or "a word for other values, at most")


# --- rules --------------------------------------------------------------------------------------------


def _text(table: str, name: str, nearest: Callable[[str], str] | None = None) -> Rule:
    def rule(made: Conversion, key: Key, value: str) -> None:
        made.carry(key, table, name, value, nearest(value) if nearest else " ".join(value.split()))

    return rule


def _flag(table: str, name: str, on: Any = True, off: Any = False) -> Rule:
    """Return the rule for a boolean; `off` of None leaves the key alone."""

    def rule(made: Conversion, key: Key, value: str) -> None:
        chosen = on if value.lower() in _TRUE else off if value.lower() in _FALSE else _flag
        if chosen is _flag:
            made.report(key, "decide", f"neither yes nor no, so it says nothing about {table}.{name}")
        elif chosen is None:
            made.report(key, "carried", f"{table}.{name} stays as it is")
        else:
            made.carry(key, table, name, chosen)

    return rule


def _as_name(value: str) -> str:
    return re.sub(r"^[^a-z0-9]+", "", re.sub(r"[^a-z0-9+._-]+", "-", value.lower())).rstrip("-")


def _as_version(value: str) -> str:
    """Macros go, and a dash becomes what rpm takes in its place."""
    plain = re.sub(r"%\{[^}]*\}|%\w+", "", value)
    return re.sub(r"[^A-Za-z0-9.+~]+", "_", re.sub(r"^[^0-9]+", "", plain)).strip("_.")


def _epoch(made: Conversion, key: Key, value: str) -> None:
    made.carry(key, "project", "epoch", int(value) if re.fullmatch(r"\d{1,9}", value) else value)


def _author(made: Conversion, key: Key, value: str) -> None:
    mail = made.settings.get("global", "module_author_email") or "nobody@localhost"
    carried = made.carry(key, "project", "maintainer", f"{value} <{mail}>")
    outcome: Outcome = "carried" if carried else "decide"
    made.report(("global", "module_author_email"), outcome, "project.maintainer" + ("" if carried else " is not set"))


def _description(made: Conversion, key: Key, value: str) -> None:
    suffix = made.settings.get("spec_file", "module_description_suffix")
    made.carry(key, "project", "description", f"{value}\n{suffix}".strip())
    _report_suffix(made)


def _suffix_alone(made: Conversion, key: Key, value: str) -> None:
    if "description" not in made.values.get("project", {}):
        name = made.settings.get("spec_file", "module_name")
        made.carry(key, "project", "description", f"{MADE_UP.format(name=name)}\n{value}")
        _report_suffix(made)


def _report_suffix(made: Conversion) -> None:
    for name in ("module_description_suffix", "description_suffix"):
        made.report(("spec_file", name), "carried", "project.description, at its end")


def _rpm_name(made: Conversion, key: Key, value: str) -> None:
    """The package's name is kmod-VENDOR-NAME, or kmod-NAME: others follow from the vendor, or not at all."""
    if key not in made.settings.given:
        return
    name = made.values.get("project", {}).get("name", "")
    vendor = made.values.get("project", {}).get("vendor")
    middle = re.fullmatch(rf"kmod-(?:(?P<vendor>.+)-)?{re.escape(name)}", value) if name else None
    if not middle:
        made.report(key, "decide", "packages are called kmod-VENDOR-NAME, or kmod-NAME without a vendor")
    elif middle["vendor"] == vendor:
        made.report(key, "carried", "packages are called so")
    elif middle["vendor"] is None:
        made.values["project"].pop("vendor", None)
        made.report(key, "carried", "project.vendor is not set: packages are called so then")
    else:
        made.carry(key, "project", "vendor", middle["vendor"])


def _cflags(made: Conversion, key: Key, value: str) -> None:
    made.carry(key, "build", "extra_cflags", " ".join(value.split()))


def _make_targets(made: Conversion, key: Key, value: str) -> None:
    """Words of the form CONFIG_X=m are kernel options; `modules` is what is made anyway."""
    rest = []
    for word in value.split():
        if option := _OPTION.fullmatch(word):
            made.values.setdefault("kconfig", {})[option["name"]] = option["value"]
        elif word != "modules":
            rest.append(word)
    if rest:
        made.report(key, "decide", f"modules are made by kbuild's own target; not known: {' '.join(rest)}")
    else:
        made.report(key, "carried", "kconfig" if "kconfig" in made.values else "modules are made anyway")


def _firmware(made: Conversion, key: Key, value: str) -> None:
    if value.lower() in _TRUE:
        made.carry(key, "firmware", "directory", "src/firmware")
    else:
        made.report(key, "carried", "no firmware is packaged, though src/firmware may have some")


def _dependencies(name: str, known: frozenset[str] = frozenset()) -> Rule:
    """Return the rule for a list of dependencies, of which the `known` ones are there anyway."""

    def rule(made: Conversion, key: Key, value: str) -> None:
        try:
            words = [word for word in split_dependencies(value) if word.split()[0] not in known]
        except ValueError as error:
            made.report(key, "decide", f"not taken for rpm.{name}: {error}")
            return
        if words:
            made.carry(key, "rpm", name, [*made.values.get("rpm", {}).get(name, ()), *words])
        else:
            made.report(key, "carried", "the distribution's own list has them")

    return rule


# In the lists of the distributions' data files, or for them: abi-whitelists is abi-stablelists since EL 9.
_LISTED = frozenset(
    {"elfutils-libelf-devel", "gcc", "kernel-rpm-macros", "kmod", "make", "redhat-rpm-config"}
    | {"kernel-abi-stablelists", "kernel-abi-whitelists"}
)


def _kernel_version_min(made: Conversion, key: Key, value: str) -> None:
    made.put("rpm", "installer_kernels", "later", key)
    if value == made.settings.get("spec_file", "kernel_version"):
        made.report(key, "carried", 'rpm.installer_kernels = "later"')
    else:
        what = "installers with this kernel or a later one take it, but none before kernel_version"
        made.report(key, "changed", f'rpm.installer_kernels = "later": {what}')


def _kernel_version_dep(made: Conversion, key: Key, value: str) -> None:
    if value == made.settings.get("spec_file", "kernel_version"):
        made.report(key, "carried", "packages ask for the kernel they were built for")
    else:
        what = "packages ask for the kernel they were built for; rpm.kernel_requires = 'symbols' takes all that fit"
        made.report(key, "decide", what)


def _gpg_check(made: Conversion, key: Key, value: str) -> None:
    if value == "0":
        made.report(key, "carried", "signatures of packages for a disk are not checked")
    else:
        made.report(key, "decide", "signatures of packages for a disk are not checked here: `rpmkeys -K` does that")


def _isofile(made: Conversion, key: Key, value: str) -> None:
    made.carry(key, "disk", "file", value)


def _mock_options(made: Conversion, key: Key, value: str) -> None:
    made.carry(key, "mock", "options", value.split())


def _git_hash(made: Conversion, key: Key, value: str) -> None:
    made.report(key, "carried", "in the message of the commit that the sources come from, unless -g has it")


def _build_dir(made: Conversion, key: Key, value: str) -> None:
    made.carry(key, "source", "directories", [value.strip("/") or "."])


RULES: Mapping[Key, Rule] = {
    ("spec_file", "module_name"): _text("project", "name", _as_name),
    ("global", "module_vendor"): _text("project", "vendor", _as_name),
    ("spec_file", "module_version"): _text("project", "version", _as_version),
    ("spec_file", "module_rpm_release"): _text("project", "release", _as_version),
    ("spec_file", "module_version_epoch"): _epoch,
    ("spec_file", "rpm_name"): _rpm_name,
    ("global", "module_author"): _author,
    ("spec_file", "summary"): _text("project", "summary"),
    ("spec_file", "description"): _description,
    ("spec_file", "module_description_suffix"): _suffix_alone,
    ("spec_file", "module_build_dir"): _build_dir,
    ("spec_file", "build_extra_cflags"): _cflags,
    ("spec_file", "make_targets"): _make_targets,
    ("spec_file", "dependencies"): _dependencies("requires"),
    ("spec_file", "build_dependencies"): _dependencies("build_requires"),
    ("spec_file", "dist_build_dependencies"): _dependencies("build_requires", _LISTED),
    ("spec_file", "devel_package"): _flag("devel", "enabled"),
    ("spec_file", "firmware_include"): _firmware,
    ("spec_file", "firmware_version"): _text("firmware", "version", _as_version),
    ("spec_file", "kernel_version_min"): _kernel_version_min,
    ("spec_file", "kernel_version_dep"): _kernel_version_dep,
    ("spec_file", "git_hash"): _git_hash,
    ("global", "include_srpm"): _flag("disk", "include_srpm"),
    ("rpm_gpg_check", "check_level"): _gpg_check,
    ("defaults", "isofile"): _isofile,
    ("defaults", "quilt_support"): _flag("source", "quilt"),
    ("defaults", "tar_all"): _flag("source", "archive", "all", None),
    ("defaults", "tar_strict"): _flag("source", "archive", "kbuild", None),
    ("defaults", "srpm"): _flag("rpm", "srpm_only"),
    ("defaults", "mock"): _flag("rpm", "builder", "mock", "local"),
    ("defaults", "mock_config"): _text("mock", "config"),
    ("defaults", "mock_offline"): _flag("mock", "offline"),
    ("defaults", "mock_opts"): _mock_options,
}
_TARGET_KEYS: tuple[Key, ...] = tuple(("spec_file", key) for key in ("rpm_dist", "kernel_version", "kernel_arch"))
# Values that are made of others, which are reported themselves.
_DERIVED = frozenset({("spec_file", "rpm_name"), *PACKAGING_TEXTS})


def _name(made: Conversion, folder: Path) -> None:
    """A project has to have a name: the driver's, or else that of the folder that is built."""
    info = made.values.setdefault("project", {})
    if "name" in info:
        return
    build_dir = made.settings.get("spec_file", "module_build_dir").strip("/")
    for candidate in (build_dir.rpartition("/")[2], folder.absolute().name):
        if (name := _as_name(candidate)) and not refusal("project", "name", name):
            made.values["project"] = {"name": name, **info}
            why = "spec_file.module_name says none that a package may have"
            made.entries.append(Entry("spec_file.module_name", "", "decide", f"project.name = '{name}': {why}"))
            made.done.add(("spec_file", "module_name"))
            return
    raise ConfigError("the driver has no name", hint="fill in spec_file.module_name")


def _target(made: Conversion) -> None:
    """Make the target of the distribution's tag and the kernel."""
    dist, kernel = (made.settings.get("spec_file", key) for key in ("rpm_dist", "kernel_version"))
    key: Key = ("spec_file", "rpm_dist")
    tag = _DIST.fullmatch(dist) or re.search(r"\.(?P<distro>el\d+)(?:_(?P<minor>\d+))?(?P<rest>)$", kernel)
    if not tag or tag["distro"] not in data.names("distros"):
        known = ", ".join(name for name in data.names("distros") if name.startswith("el"))
        what = f"no distribution that pkgkmod builds for ({known}): write a [[target]]"
        for name in _TARGET_KEYS:
            made.report(name, "decide", what)
        if not made.settings.get(*key):
            made.entries.append(Entry("spec_file.rpm_dist", "", "decide", what))
        return
    target: dict[str, Any] = {"distro": tag["distro"]}
    if tag["minor"]:
        target["minor"] = int(tag["minor"])
    if tag["rest"]:
        made.report(key, "changed", f"target.distro; packages end in .{tag['distro']}, without '{tag['rest']}'")
    made.report(key, "carried", "target.distro" + (", target.minor" if tag["minor"] else ""))
    target["kernels"] = _kernels(made, kernel)
    made.values["target"] = [target]
    made.origins["target", ""] = key


def _kernels(made: Conversion, kernel: str) -> list[str]:
    key: Key = ("spec_file", "kernel_version")
    arch_key: Key = ("spec_file", "kernel_arch")
    if not kernel or refusal("target", "kernels", [kernel]):
        made.report(key, "decide", "no release of a kernel: target.kernels is 'newest'")
        made.report(arch_key, "left out", "packages are for the machine that builds them")
        return ["newest"]
    arches = made.settings.get("spec_file", "kernel_arch").split()
    if not _KERNEL.fullmatch(kernel):
        made.report(key, "carried", "target.kernels, as it is: it has not the form of Red Hat's kernel packages")
        made.report(arch_key, "left out", "packages are for the machine that builds them")
        return [kernel]
    if len(arches) == 1 and arches[0] in _ARCHES:
        made.report(key, "carried", "target.kernels, with the architecture")
        made.report(arch_key, "carried", "target.kernels")
        return [f"{kernel}.{arches[0]}"]
    # With several architectures, that of the machine that builds; not the kernels for debugging and real time.
    made.report(key, "changed", "target.kernels: the kernel of the architecture that builds")
    made.report(arch_key, "changed", "packages are for the machine that builds them: run it on one of each")
    return [f"{kernel}.*", "!*+*"]
