"""From what a dkms.conf says for several kernels to a project file's values, and what became of each setting."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import tomlkit

from pkgkmod.config.importers.dkmsconf import DkmsConf, DkmsModule
from pkgkmod.config.importers.dkmslimits import kernel_limits, patterns
from pkgkmod.config.importers.projectfile import project_text, refusal
from pkgkmod.config.importers.report import Entry, comments
from pkgkmod.config.load import validate
from pkgkmod.errors import ConfigError

_NOT_A_NAME = re.compile(r"[^a-z0-9+._-]+")
_LEFT_OUT = {
    "CLEAN": "each build begins with fresh sources",
    "POST_BUILD": "dkms runs it when it has taken the modules: nothing of it is in them",
    "PRE_INSTALL": "packages run no scripts of the sources on the machines where they are installed",
    "POST_INSTALL": "packages run no scripts of the sources on the machines where they are installed",
    "POST_ADD": "nothing is added to a dkms tree",
    "POST_REMOVE": "packages run no scripts of the sources on the machines where they are installed",
    "AUTOINSTALL": "packages are made for kernels, and installed with them",
    "NO_WEAK_MODULES": "rpm.kernel_requires says which kernels a package serves",
    "MODPROBE_ON_INSTALL": "packages load no modules",
}
_MOST_MODULES = 500
_OLD = "dkms itself passes over it since version 3"


@dataclass
class Imported:
    """What is to be written: values of tables, modules, the report, and the drivers of other projects."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    modules: list[dict[str, Any]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    requires: list[dict[str, Any]] = field(default_factory=list)

    def note(self, key: str, value: str, outcome: Any, text: str) -> None:
        """Add a line to the report."""
        self.entries.append(Entry(key, value, outcome, text))

    def text(self, source: str) -> str:
        """Return the project file; raise ConfigError if the values do not go together."""
        made = project_text(self.values, (), source)
        for name, tables in (("requires", self.requires), ("module", self.modules)):
            for values in tables:
                table = tomlkit.document()
                table.add(name, tomlkit.aot())
                table[name].append(tomlkit.item(values))
                made += "\n" + tomlkit.dumps(table)
        made += comments(self.entries, source)
        validate(tomllib.loads(made), lambda key, missing: source, source)
        return made


def translate(
    confs: Sequence[DkmsConf],
    *,
    script: str,
    folder: str,
    built_by_kbuild: bool,
    why_make: str,
    projects: Mapping[str, str] = MappingProxyType({}),
) -> Imported:
    """Return what the project file says; `confs` are the evaluations for all kernels, `script` is the dkms.conf.

    `folder` is where the sources lie in the repository. `built_by_kbuild` says that kbuild finds the modules by itself;
    otherwise the driver's own make builds them, `why_make`. `projects` are the folders of other projects that it builds
    on, by name. Raise ConfigError if dkms could not build any of it either.
    """
    found = Imported()
    wanted = [conf for conf in confs if not conf.excluded] or list(confs)
    conf = wanted[-1]
    _info(conf, found)
    _modules(wanted, folder, built_by_kbuild, found)
    if built_by_kbuild:
        found.note("MAKE", conf.get("MAKE"), "carried", "the Makefiles, which kbuild reads by itself")
    else:
        _make(wanted, found, why_make)
    limits = kernel_limits(confs, script, found.note)
    if limits:
        found.values["only"] = limits
    found.requires = [{"project": place} for place in projects.values()]
    _rest(conf, projects, found)
    return found


def _plain_name(name: str) -> str:
    return _NOT_A_NAME.sub("-", name.lower()).strip("-._+")


def _info(conf: DkmsConf, found: Imported) -> None:
    given = conf.get("PACKAGE_NAME")
    name = _plain_name(given)
    if not name or refusal("project", "name", name):
        raise ConfigError("the dkms.conf has no usable PACKAGE_NAME", details=f"PACKAGE_NAME = {given!r}")
    found.note("PACKAGE_NAME", given, "carried" if name == given else "changed", f"project.name = {name}")
    text = conf.get("PACKAGE_VERSION")
    # Such as 1.9.1-5: what follows the last dash is the release in a package's version.
    version, dash, release = text.rpartition("-") if re.search(r"-[0-9][A-Za-z0-9.+~_]*$", text) else (text, "", "")
    version = version.replace("-", ".").lstrip("v")
    if refusal("project", "version", version):
        found.note("PACKAGE_VERSION", text, "decide", f"{refusal('project', 'version', version)}: 1.0 is written")
        version = "1.0"
    else:
        keys = f"project.version = {version}" + (f", project.release = {release}" if dash else "")
        same = text in (version, f"{version}-{release}")
        found.note("PACKAGE_VERSION", text, "carried" if same else "changed", keys)
    found.values["project"] = {"name": name, "version": version, **({"release": release} if dash else {})}


def _modules(confs: Sequence[DkmsConf], folder: str, built_by_kbuild: bool, found: Imported) -> None:
    releases = [conf.uname_r for conf in confs]
    served: dict[DkmsModule, list[str]] = {}
    for conf in confs:
        if len(conf.modules) > _MOST_MODULES:
            raise ConfigError(f"the dkms.conf names {len(conf.modules)} modules")
        for module in conf.modules:
            # Where it goes makes no other module of it.
            same = next((one for one in served if one.same_build(module)), module)
            served.setdefault(same, []).append(conf.uname_r)
    if not served:
        raise ConfigError("the dkms.conf names no module", hint="BUILT_MODULE_NAME[0] is what it should have")
    for module, kernels in served.items():
        found.modules.append(_module(module, folder, built_by_kbuild))
        if set(kernels) != set(releases):
            chosen = patterns(kernels, [release for release in releases if release not in kernels])
            found.modules[-1]["kernels"] = list(chosen)
            found.note(
                "BUILT_MODULE_NAME", module.name, "changed", f"only for the kernels {', '.join(chosen)}: it is computed"
            )
    names = ", ".join(dict.fromkeys(module.name for module in served))
    found.note("BUILT_MODULE_NAME", names, "carried", "[[module]]")
    places = dict.fromkeys(module.destination for module in served if module.destination)
    found.note("DEST_MODULE_LOCATION", " ".join(places), "left out", "the distribution says where modules go")
    if kept := [module.name for module in served if not module.strip]:
        found.note("STRIP", f"no: {', '.join(kept)}", "left out", "debug information goes into packages of its own")


def _module(module: DkmsModule, folder: str, built_by_kbuild: bool) -> dict[str, Any]:
    place = f"{module.location}/" if module.location else ""
    if built_by_kbuild:
        return {"name": module.installed_name, "directory": f"{folder}/{place}".rstrip("/")}
    made = f"{place}{module.name}.ko"
    return {"name": module.installed_name, **({"built": made} if made != f"{module.installed_name}.ko" else {})}


_PER_KERNEL = """\
# What is to be done differs from kernel to kernel: dkms.conf is asked anew for each.
mkdir -p "$SOURCES/.dkms/{name}/{version}"
ln -sfn "$SOURCES" "$SOURCES/.dkms/{name}/{version}/build"
exec bash -c '
kernelver=$KERNEL arch=$(uname -m) kernel_source_dir=$KERNEL_TREE
dkms_tree=$SOURCES/.dkms source_tree=/usr/src
. ./dkms.conf >/dev/null
[ -z "$PRE_BUILD" ] || ./$PRE_BUILD || exit
command=
[ -n "$MAKE_MATCH" ] || command=$MAKE
for number in "${{!MAKE[@]}}"; do
    match=${{MAKE_MATCH[number]}}
    if [[ -n $match && $KERNEL =~ $match ]]; then command=${{MAKE[number]}}; fi
done
[ -n "$command" ] || command="make -C $KERNEL_TREE M=$SOURCES"
eval "${{command/#make/make KERNELRELEASE=$KERNEL}}"
'"""


def _make(confs: Sequence[DkmsConf], found: Imported, why: str) -> None:
    conf = confs[-1]
    commands = dict.fromkeys(one.commands for one in confs)
    makes = [*conf.values.get("MAKE", {}).values()] or [conf.make]
    if len(commands) == 1 and not any(conf.values.get("MAKE_MATCH", {}).values()):
        (text,) = commands
        found.note("MAKE", makes[0], "carried", f"build.make, since {why}")
    else:
        names = (conf.get("PACKAGE_NAME"), conf.get("PACKAGE_VERSION"))
        if not all(re.fullmatch(r"[A-Za-z0-9._+~-]+", name) for name in names):
            raise ConfigError("PACKAGE_NAME or PACKAGE_VERSION cannot be the name of a folder")
        text = _PER_KERNEL.format(name=names[0], version=names[1])
        why = "what it says differs from kernel to kernel"
        found.note("MAKE", " | ".join(makes), "changed", f"build.make, which reads dkms.conf for each kernel: {why}")
    found.values.setdefault("build", {})["make"] = text
    if conf.get("PRE_BUILD"):
        found.note("PRE_BUILD", conf.get("PRE_BUILD"), "carried", "build.make, at its beginning")


def _rest(conf: DkmsConf, projects: Mapping[str, str], found: Imported) -> None:
    for name, why in _LEFT_OUT.items():
        if conf.get(name):
            found.note(name, conf.get(name), "left out", why)
    for number, value in sorted(conf.values.get("BUILD_DEPENDS", {}).items()):
        name = _plain_name(value)
        if name in projects:
            found.note(f"BUILD_DEPENDS[{number}]", value, "carried", f"[[requires]], project = {projects[name]}")
            continue
        text = f"it builds on {value}: make that a project, too, and name it by --with, or its package in [[requires]]"
        found.note(f"BUILD_DEPENDS[{number}]", value, "decide", text)
    for name in ("REMAKE_INITRD", "MODULES_CONF", "MODULES_CONF_OBSOLETES", "MODULES_CONF_ALIAS_TYPE"):
        if conf.get(name):
            found.note(name, conf.get(name), "left out", _OLD)


def described(control: Mapping[str, str], found: Imported) -> None:
    """Take name and address of the maintainer, home page and summary from a package's control file."""
    summary = control.get("Description", "").splitlines()[:1]
    texts = {
        "maintainer": control.get("Maintainer", ""),
        "url": control.get("Homepage", ""),
        "summary": re.sub(r"\s*[-(]*\s*\bDKMS\b.*$", "", summary[0], flags=re.IGNORECASE).strip() if summary else "",
    }
    for key, value in texts.items():
        if value and not refusal("project", key, value):
            found.values["project"][key] = value


def with_patches(confs: Iterable[DkmsConf]) -> dict[str, tuple[str, ...]]:
    """Return the patches in order, each with the patterns of the kernels that it is for; none: for all."""
    confs = [conf for conf in confs if not conf.excluded]
    served: dict[str, list[str]] = {}
    for conf in confs:
        for name in conf.patches:
            served.setdefault(name, []).append(conf.uname_r)
    releases = [conf.uname_r for conf in confs]
    return {
        name: () if len(kernels) == len(releases) else patterns(kernels, [r for r in releases if r not in kernels])
        for name, kernels in served.items()
    }
