"""From the specs of packages of kernel modules to a project file's values, and what became of all that they say."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pkgkmod import data
from pkgkmod.config.importers.dependencies import split_dependencies
from pkgkmod.config.importers.projectfile import refusal
from pkgkmod.config.importers.report import Entry, Outcome
from pkgkmod.config.importers.specscripts import Built, Prepared, built, not_understood, prepared
from pkgkmod.config.importers.spectext import SCRIPTLETS, SCRIPTS, Line, Part, conditions, programs
from pkgkmod.errors import ConfigError
from pkgkmod.model.distro import Distro

_TAG = re.compile(r"\s*(?P<name>[A-Za-z][A-Za-z0-9]*)(?:\((?P<what>[^)]*)\))?\s*:\s*(?P<value>.*)")
_KMP = re.compile(r"pkgkmod-kmp\((?P<words>.*)\)$")
_KMOD_NAME = re.compile(r"^kmod-|-kmod$|-kmp$")
_EL = re.compile(r"\.el(?P<major>[0-9]+)")
_KERNEL = re.compile(
    r"kernel(?:-devel|-core)?(?:-uname-r)?\s*(?P<relation>=|>=)\s*(?P<version>[0-9][A-Za-z0-9._+~-]*)$"
)
_AUTHOR = re.compile(r"\*\s+\S+\s+\S+\s+\d+\s+\d{4}\s+(?P<who>[^<>]+<[^<>@\s]+@[^<>\s]+>)")
_SPDX_WORD = re.compile(r"\s+(?:and|AND|or|OR|with|WITH)\s+|[()]")
_ARCHES = {"x86_64": "x86_64", "aarch64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x"}
_HARMLESS = ('echo "%"', 'echo "%""P"', "mktemp", "id -u", "kmodtool", "sbindir", "%{__id_u}", "SOURCE10")
_WORDS = {"requires": "run", "buildrequires": "build", "provides": "provided"}


@dataclass
class SpecProject:
    """What is to be written, and the report; what the sources need is left for those who unpack them."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    sources: dict[int, tuple[str, Line]] = field(default_factory=dict)
    """File of each source, by number."""
    patches: dict[int, tuple[str, Line]] = field(default_factory=dict)
    prepared: Prepared = field(default_factory=Prepared)
    built: Built = field(default_factory=Built)

    def note(self, key: str, value: str, outcome: Outcome, text: str, number: int = 0) -> None:
        """Add a line to the report; `number` is the line of the spec."""
        self.entries.append(Entry(key, value, outcome, text, f"line {number}" if number else ""))


@functools.cache
def _facts() -> Mapping[str, Any]:
    return data.load("specs.toml")


def distro_of(text: str, known: Sequence[str]) -> str:
    """Return the distribution that a spec is most likely for."""
    if re.search(r"\bkmodtool\b|\bbuildforkernels\b|\bakmods?\b", text) and not re.search(r"kmod_kernel_version", text):
        return "fedora"
    majors = Counter(found["major"] for found in _EL.finditer(text))
    named = [f"el{major}" for major, _ in majors.most_common() if f"el{major}" in known]
    if named:
        return named[0]
    suse = re.search(r"kernel_module_package|flavors_to_build|suse", text) and not re.search(r"kmod_name|redhat", text)
    return "leap" if suse else "el9"


def distro_macros(distro: Distro) -> dict[str, str]:
    """Return the macros that a spec decides on, as the distribution has them, and stand-ins for those of its packages.

    What the stand-ins give is read afterwards; nothing is built with it.
    """
    macros = {
        "kernel_module_package(n:v:r:t:f:Xp:s:x:b:c:)": _marked("kmp"),
        "suse_kernel_module_package(n:v:r:t:f:Xp:s:x:b:c:)": _marked("kmp"),
        "kernel_module_package_buildreqs": "kernel-syms",
        "kernel_source()": "KERNEL_TREE",
        "kernel_release()": "KERNEL",
        "flavors_to_build": "default",
        "kernel_versions": "KERNEL___KERNEL_TREE",
        "kmodtool_check": "%{nil}",
        "kmodinstdir_prefix": "/lib/modules/",
        "kmodinstdir_postfix": "/extra/kmod/",
        "akmod_install": "true akmod_install",
        "_smp_mflags": "%{nil}",
        "make_build": "make",
        "systemd_requires": "%{nil}",
    }
    if distro.family == "suse":
        version = "150600" if distro.id.startswith(("leap", "sle15")) else "160000"
        return macros | {"suse_version": f"{version[:2]}00", "sle_version": version, "_vendor": "suse"}
    release = re.fullmatch(r"\.(el|fc)([0-9]+)", distro.version_suffix)
    if release is None:
        return macros
    name = "rhel" if release[1] == "el" else "fedora"
    more = {"dist": release[0], release[0].removeprefix("."): "1", name: release[2], "_vendor": "redhat"}
    return macros | more


def _marked(name: str) -> str:
    # The arguments may hold anything; here they are for reading only.
    clean = 'string.gsub(rpm.expand("%{**}"), "[^A-Za-z0-9._/-]+", "+")'
    return f"Provides: pkgkmod-{name}(%{{lua:print(({clean}))}})"


def translate(text: str, parts: Sequence[Part], unknown: Sequence[str], distro: str, kernel: str | None) -> SpecProject:
    """Return what the project file says for the sections of the spec `text`.

    `unknown` are macros that rpm does not know here, `kernel` is what the user wants to build for, if anything. Raise
    ConfigError if there is no usable name.
    """
    found = SpecProject()
    tags = list(_tags(parts[0], found))
    _info(tags, parts, distro, found)
    _dependencies(tags, found)
    _target(tags, distro, kernel, found)
    for part in parts[1:]:
        _section(part, found)
    for line in conditions(text):
        found.note("%if", line.text, "changed", f"decided as on {distro}; --distro chooses another one", line.number)
    for line in programs(text):
        if not any(word in line.text for word in _HARMLESS):
            text_ = "its program was run in the sandbox, without network; what it prints may differ elsewhere"
            found.note("macro", line.text, "changed", text_, line.number)
    for name in unknown:
        found.note(f"%{name}", "", "decide", "rpm does not know this macro here, and took it for empty")
    return found


@dataclass(frozen=True)
class _Tag:
    spelled: str
    what: str
    value: str
    number: int

    @property
    def name(self) -> str:
        """In lower case: rpm takes any spelling."""
        return self.spelled.lower()


def _tags(part: Part, found: SpecProject) -> Iterator[_Tag]:
    for line in part.lines:
        tag = _TAG.fullmatch(line.text)
        if tag:
            yield _Tag(tag["name"], tag["what"] or "", tag["value"].strip(), line.number)
        elif line.text.strip() and not line.text.lstrip().startswith("#"):
            found.note("preamble", line.text.strip(), "decide", "not understood", line.number)


def _one(tags: Sequence[_Tag], name: str) -> str:
    return next((tag.value for tag in tags if tag.name == name), "")


def _info(tags: Sequence[_Tag], parts: Sequence[Part], distro: str, found: SpecProject) -> None:
    info: dict[str, Any] = {}
    given = _one(tags, "name")
    name = _KMOD_NAME.sub("", _kmp_name(tags) or given).lower()
    if not name or refusal("project", "name", name):
        raise ConfigError("the spec has no usable name", details=f"Name: {given}")
    info["name"] = name
    found.note("Name", given, "carried" if name in given else "changed", f"project.name = {name}")
    for tag in tags:
        if tag.name in ("version", "release", "epoch", "summary", "url", "license"):
            _text_tag(tag, info, found)
    description = next((part for part in parts if part.name == "description" and not part.rest), None)
    if description and (said := "\n".join(line.text for line in description.lines).strip()):
        info["description"] = said
        found.note("%description", "", "carried", "project.description", description.number)
    _maintainer(parts, info, found)
    found.values["project"] = info
    obsolete = _facts()["tags"]["obsolete"]
    for tag in tags:
        if tag.name in obsolete and tag.name not in ("excludearch", "buildarch"):
            # That of BuildRoot is made up anew each time.
            value = "" if tag.name == "buildroot" else tag.value
            found.note(tag.spelled, value, "left out", "packages say it by themselves", tag.number)
        elif tag.name in ("excludearch", "buildarch"):
            found.note(tag.spelled, tag.value, "left out", "the kernels of a target decide", tag.number)
        elif sources := re.fullmatch(r"(source|patch)([0-9]{0,6})", tag.name):
            kept = found.sources if sources[1] == "source" else found.patches
            number = int(sources[2]) if sources[2] else max(kept, default=-1) + 1
            kept[number] = (tag.value, Line(tag.number, tag.value))


def _kmp_name(tags: Sequence[_Tag]) -> str:
    """Return the name that %kernel_module_package is given (-n)."""
    for tag in tags:
        if tag.name == "provides" and (called := _KMP.match(tag.value)):
            words = called["words"].split("+")
            if "-n" in words[:-1]:
                return words[words.index("-n") + 1]
    return ""


def _text_tag(tag: _Tag, info: dict[str, Any], found: SpecProject) -> None:
    value: Any = tag.value
    if tag.name == "release":
        value = re.sub(r"(?:\.el[0-9]+(?:_[0-9]+)?|\.fc[0-9]+)(?:\.\S*)?$", "", value)
    elif tag.name == "version":
        value = value.replace("^", "+").replace("-", ".").removeprefix("v")
    elif tag.name == "license":
        value, vague = _license(value)
        if value != tag.value or vague:
            outcome: Outcome = "decide" if vague else "changed"
            found.note("License", tag.value, outcome, f"project.license = {value}{vague}", tag.number)
            info["license"] = value
            return
    elif tag.name == "epoch":
        value = int(value) if re.fullmatch("[0-9]{1,9}", value) else value
        if value == 0:
            return
    if why := refusal("project", tag.name, value):
        found.note(tag.spelled, tag.value, "decide", f"left out: {why}", tag.number)
        return
    info[tag.name] = value
    same = str(value) == tag.value or (tag.name == "release" and tag.value.startswith(str(value)))
    found.note(tag.spelled, tag.value, "carried" if same else "changed", f"project.{tag.name} = {value}", tag.number)


def _license(text: str) -> tuple[str, str]:
    """Return a licence in SPDX's words, and what is to be said if that is a guess."""
    exact, vague = _facts()["licenses"], _facts()["vague_licenses"]
    words = _SPDX_WORD.split(text)
    joints = _SPDX_WORD.findall(text)
    guessed = [word.strip() for word in words if word.strip() in vague]
    shown = [{**exact, **vague}.get(word.strip(), word.strip()) for word in words]
    spelled = "".join(
        part + (joint.upper() if joint.strip() not in "()" else joint)
        for part, joint in zip(shown, [*joints, ""], strict=True)
    )
    return spelled, f": {', '.join(guessed)} does not say which version or kind" if guessed else ""


def _maintainer(parts: Sequence[Part], info: dict[str, Any], found: SpecProject) -> None:
    """Take the author of the newest entry of %changelog; the entries themselves stay in the copy of the spec."""
    for part in parts:
        if part.name != "changelog":
            continue
        heads = [line for line in part.lines if line.text.startswith("*")]
        author = next((who["who"] for line in heads if (who := _AUTHOR.match(line.text))), "")
        text = f"it stays in the copy of the spec (entries: {len(heads)}); packages say what was imported"
        found.note("%changelog", "", "left out", text, part.number)
        if author and not refusal("project", "maintainer", author):
            info["maintainer"] = author
            found.note("%changelog", author, "changed", "project.maintainer, from the newest entry", part.number)
    if "maintainer" not in info:
        found.note("project.maintainer", "", "decide", "the spec does not say who packages it")


def _dependencies(tags: Sequence[_Tag], found: SpecProject) -> None:
    lists: dict[str, list[str]] = {"requires": [], "build_requires": []}
    for tag in tags:
        if tag.name in ("requires", "buildrequires"):
            _needed(tag, lists["requires" if tag.name == "requires" else "build_requires"], found)
        elif tag.name == "provides":
            _provided(tag, found)
        elif tag.name in ("obsoletes", "conflicts", "recommends", "suggests", "supplements", "enhances", "prereq"):
            found.note(tag.spelled, tag.value, "decide", "left out: there is no key for it", tag.number)
        elif tag.name in ("buildconflicts", "orderwithrequires", "icon", "exclusiveos", "bugurl"):
            found.note(tag.spelled, tag.value, "left out", "there is no key for it", tag.number)
    if kept := {key: list(dict.fromkeys(values)) for key, values in lists.items() if values}:
        found.values.setdefault("rpm", {}).update(kept)


def _is_own(name: str, kind: str) -> bool:
    return any(re.match(pattern, name.split()[0]) for pattern in _facts()["dependencies"][kind])


def _needed(tag: _Tag, kept: list[str], found: SpecProject) -> None:
    key = "rpm.requires" if tag.name == "requires" else "rpm.build_requires"
    try:
        names = split_dependencies(tag.value)
    except ValueError as error:
        found.note(tag.spelled, tag.value, "decide", f"left out: {error}", tag.number)
        return
    for name in names:
        if _is_own(name, _WORDS[tag.name]):
            found.note(tag.spelled, name, "carried", "packages say it by themselves", tag.number)
        elif why := refusal("rpm", key.partition(".")[2], [name]):
            found.note(tag.spelled, name, "decide", f"left out: {why}", tag.number)
        else:
            kept.append(name)
            when = f" (the spec needs it for its {tag.what})" if tag.what else ""
            found.note(tag.spelled, name, "changed" if when else "carried", f"{key}{when}", tag.number)


def _provided(tag: _Tag, found: SpecProject) -> None:
    if _KMP.match(tag.value):
        words = tag.value.partition("(")[2].rstrip(")").replace("+", " ").strip()
        text = "packages are made for the target's kernels; -f, -p, -s, -t and -x are left out"
        special = any(f" {option} " in f" {words} " for option in ("-p", "-f", "-x", "-s", "-t"))
        found.note("%kernel_module_package", words, "decide" if special else "carried", text, tag.number)
    elif tag.value.startswith("kernel-modules"):
        later = ">" in tag.value
        if later:
            found.values.setdefault("rpm", {})["installer_kernels"] = "later"
        text = f'rpm.installer_kernels = "{"later" if later else "same"}"'
        found.note("Provides", tag.value, "carried", text, tag.number)
    elif _is_own(tag.value, "provided"):
        found.note("Provides", tag.value, "carried", "packages say it by themselves", tag.number)
    else:
        found.note("Provides", tag.value, "decide", "left out: there is no key for it", tag.number)


def _target(tags: Sequence[_Tag], distro: str, kernel: str | None, found: SpecProject) -> None:
    named = [
        (match, tag)
        for tag in tags
        if tag.name in ("buildrequires", "requires") and (match := _KERNEL.match(tag.value))
    ]
    exclusive = next((tag for tag in tags if tag.name == "exclusivearch"), None)
    arches = [word for word in (exclusive.value.split() if exclusive else ()) if word in _ARCHES] or ["x86_64"]
    kernels = [kernel] if kernel else ["newest"]
    if named and not kernel and distro.startswith("el"):
        match, tag = named[0]
        bare = re.sub(rf"\.({'|'.join(_ARCHES)})$", "", match["version"])
        kernels = [f"{bare}.{arch}" for arch in arches]
        found.note("kernel", match["version"], "carried", f"target.kernels = {', '.join(kernels)}", tag.number)
    elif named:
        match, tag = named[0]
        found.note("kernel", match["version"], "changed", f"target.kernels = {', '.join(kernels)}", tag.number)
    if exclusive:
        what = "the kernels of a target decide" + (f": {', '.join(kernels)}" if named and not kernel else "")
        found.note("ExclusiveArch", exclusive.value, "carried" if named else "changed", what, exclusive.number)
    exact = [tag for match, tag in named if tag.name == "requires" and match["relation"] == "="]
    if exact:
        found.values.setdefault("rpm", {})["kernel_requires"] = "exact"
        found.note("Requires", exact[0].value, "carried", 'rpm.kernel_requires = "exact"', exact[0].number)
    found.values["target"] = [{"distro": distro, "kernels": kernels}]  # type: ignore[assignment]


def _section(part: Part, found: SpecProject) -> None:
    """Say what became of a section behind the tags."""
    if part.rest and part.name in ("description", "files", "package", *SCRIPTLETS):
        text = "it is of a package that is not made; [devel] and [firmware] make further packages"
        found.note(part.title, "", "left out", text, part.number)
    elif part.name == "prep":
        found.prepared = prepared(part)
        _listed(part, found.prepared.rest, "make a patch of what it does to the sources", found)
    elif part.name == "build":
        found.built = built(part)
        _listed(part, found.built.rest, "the build does not do this; a patch, or build.make, can", found)
    elif part.name in ("install", "files") or part.name in SCRIPTLETS or part.name in SCRIPTS:
        _others(part, found)


def _others(part: Part, found: SpecProject) -> None:
    lines = not_understood(part)
    what = {
        "install": "packages hold modules, firmware and headers only",
        "files": "packages hold modules, firmware and headers only",
    }.get(part.name, "packages run no scripts but their own, for depmod, weak-modules and the initramfs")
    _listed(part, lines, what, found)


def _listed(part: Part, lines: Sequence[Line], why: str, found: SpecProject) -> None:
    for line in lines:
        found.note(part.title, line.text.strip(), "decide", f"left out: {why}", line.number)
    said = len([line for line in part.lines if line.text.strip() and not line.text.lstrip().startswith("#")])
    if said and not lines:
        found.note(part.title, "", "carried", "packages do this by themselves", part.number)
