"""Descriptions of projects and packages in an Open Build Service: changed where they must be, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, canonicalize, indent, tostring

if TYPE_CHECKING:
    from pkgkmod.builders.obs import Repository

# What stands before the flags in a package's description, and the flags in the order of OBS' own schema.
_BEFORE_FLAGS = ("title", "description", "releasename", "devel", "person", "group", "lock", "access", "sourceaccess")
_FLAGS = ("build", "publish", "debuginfo")


def new_project(name: str, title: str, user: str) -> Element:
    """Return a project without repositories, which its maker maintains."""
    root = Element("project", {"name": name})
    SubElement(root, "title").text = title
    SubElement(root, "description")
    SubElement(root, "person", {"userid": user, "role": "maintainer"})
    return root


def new_package(project: str, name: str, title: str, description: str) -> Element:
    """Return a package."""
    root = Element("package", {"name": name, "project": project})
    SubElement(root, "title").text = title
    SubElement(root, "description").text = description
    return root


def set_repositories(project: Element, wanted: Iterable[Repository]) -> None:
    """Let a project have repositories; those that it has besides stay as they are."""
    for one in wanted:
        found = next((old for old in project.iter("repository") if old.get("name") == one.name), None)
        if found is None:
            found = SubElement(project, "repository", {"name": one.name})
        if one.path:
            _replace(found, "path", [dict(zip(("project", "repository"), p.split("/"), strict=True)) for p in one.path])
        if [arch.text for arch in found.iter("arch")] != list(one.arches):
            for arch in found.findall("arch"):
                found.remove(arch)
            for name in one.arches:
                SubElement(found, "arch").text = name


def _replace(parent: Element, tag: str, wanted: Sequence[Mapping[str, str]]) -> None:
    """Let the elements of a tag, which stand first, have these attributes."""
    old = parent.findall(tag)
    if [dict(one.attrib) for one in old] == list(wanted):
        return
    for one in old:
        parent.remove(one)
    for place, attributes in enumerate(wanted):
        parent.insert(place, Element(tag, dict(attributes)))


def repositories(project: Element) -> dict[str, tuple[str, ...]]:
    """Return the repositories of a project, with their machines."""
    return {
        one.get("name", ""): tuple(arch.text or "" for arch in one.findall("arch"))
        for one in project.findall("repository")
    }


def set_flag(package: Element, name: str, wanted: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    """Let a flag of a package (build, publish, debuginfo) be `enable` and `disable` with these attributes."""
    found = package.find(name)
    if found is not None and [(one.tag, dict(one.attrib)) for one in found] == [(t, dict(a)) for t, a in wanted]:
        return
    if found is not None:
        package.remove(found)
    if not wanted:
        return
    made = Element(name)
    for tag, attributes in wanted:
        SubElement(made, tag, dict(attributes))
    before = (*_BEFORE_FLAGS, *_FLAGS[: _FLAGS.index(name)])
    place = max((number for number, one in enumerate(package, 1) if one.tag in before), default=0)
    package.insert(place, made)


def differ(one: Element, other: Element) -> bool:
    """Tell whether two elements say something else."""
    return canonicalize(tostring(one), strip_text=True) != canonicalize(tostring(other), strip_text=True)


def text(root: Element) -> bytes:
    """Return XML to send."""
    indent(root)
    content: bytes = tostring(root, encoding="utf-8")
    return content + b"\n"


def file_list(entries: Iterable[tuple[str, str, str]]) -> bytes:
    """Return the list of a revision's files, of names, MD5 and SHA-256; the last is empty for what was there before."""
    root = Element("directory")
    for name, md5, sha256 in entries:
        SubElement(root, "entry", {"name": name, "md5": md5, **({"hash": f"sha256:{sha256}"} if sha256 else {})})
    return text(root)


def multibuild(flavors: Iterable[str]) -> bytes:
    """Return the file that lets a package be built once for each spec of these names."""
    root = Element("multibuild")
    for name in flavors:
        SubElement(root, "flavor").text = name
    return text(root)
