"""The Jinja environments, and how hostile text is written in each language that templates speak.

That for specs and debian folders has the delimiters `@@{ value }@@`, `@@% statement %@@` and `@@# comment #@@`: none
of them occurs in RPM macros, shell or make, where Jinja's own do (`%{#}`, `${#x}`), and so does a single `@`
(`${@#-}`, `@#`). That for pages has Jinja's own, and escapes all values for HTML.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pkgkmod.errors import ConfigError, did_you_mean
from pkgkmod.progress import escape_controls

if TYPE_CHECKING:
    from jinja2 import Environment

Room = Literal["spec-templates", "debian-templates"]

_REFERENCE = re.compile(r"""@@%[-+]?\s*(?:include|extends|import|from)\s+["']([^"']+)["']""")
_SPACE = re.compile(r"\s+")


# --- text in other languages ------------------------------------------------------------------------


def rpm_line(text: object) -> str:
    """Return `text` as the value of a one-line tag of a spec: on one line, with no macro in it."""
    return _without_macros(_SPACE.sub(" ", str(text)).strip())


def rpm_text(text: object) -> str:
    """Return `text` as the body of %description.

    rpm looks for sections (`%files`), conditionals (`%if`, also indented) and comments after it has
    expanded macros, so escaping does not help at the start of a line: a dash is put before it.
    """
    lines = [line.rstrip() for line in str(text).strip().splitlines()]
    return "\n".join(_without_macros(re.sub(r"^(\s*)(?=[%#])", r"\1- ", line)) for line in lines)


def _without_macros(text: str) -> str:
    # While rpm looks for a macro's end on further lines, a backslash hides the percent sign behind it:
    # in \%%{ it would see the start of a macro. The empty macro between them keeps them apart.
    return text.replace("%", "%%").replace("\\%%", "\\%{nil}%%")


def make_text(text: object) -> str:
    """Return `text` as the value of a variable in a makefile."""
    return _SPACE.sub(" ", str(text)).replace("$", "$$").replace("#", "\\#")


def shell_word(text: object) -> str:
    """Return `text` as one word of a shell command."""
    return shlex.quote(str(text))


def deb_text(text: object) -> str:
    """Return `text` as continuation lines of a deb822 field: indented, with ` .` for empty lines.

    A line that starts with a full stop is indented once more: the policy (5.6.13) reserves such lines.
    """
    lines = [line.expandtabs().rstrip() for line in str(text).strip().splitlines()]
    return "\n".join(f"  {line}" if line.startswith(".") else f" {line}" if line else " ." for line in lines)


_FILTERS = {"rpm": rpm_line, "rpm_text": rpm_text, "make": make_text, "sh": shell_word, "deb": deb_text}


# --- where templates are, and rendering them --------------------------------------------------------


def built_in(room: Room) -> Traversable:
    """Return the folder of built-in templates: the checkout's own, or else the one inside the package."""
    checkout = Path(__file__).parents[1] / room
    return checkout if checkout.is_dir() else files("pkgkmod").joinpath(room)


@dataclass(frozen=True)
class Templates:
    """The templates of one room; those in `folder`, if given, take the place of the built-in ones."""

    room: Room
    folder: Path | None = None

    def text(self, name: str) -> str:
        """Return a template's text; raise ConfigError if there is none of that name."""
        places: list[Traversable] = [self.folder] if self.folder else []
        for place in [*places, built_in(self.room)]:
            if (found := place.joinpath(name)).is_file():
                return found.read_text(encoding="utf-8")
        known = [entry.name for entry in built_in(self.room).iterdir()]
        raise ConfigError(f"there is no template '{name}' in {self.room}", hint=did_you_mean(name, known))

    def digest(self, *names: str) -> str:
        """Return a digest over the text of these templates and of all that they include."""
        seen: dict[str, str] = {}
        waiting = list(names)
        while waiting:
            if (name := waiting.pop()) not in seen:
                seen[name] = self.text(name)
                waiting += _REFERENCE.findall(seen[name])
        parts = (f"{name}\0{len(seen[name])}\0{seen[name]}" for name in sorted(seen))
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Return the template filled in; ConfigError names the template and line if it is wrong."""
        import jinja2

        try:
            return _environment(self).get_template(name).render(values)
        except jinja2.TemplateSyntaxError as error:
            raise self._broken(error.name or name, error.lineno, str(error.message)) from error
        except jinja2.UndefinedError as error:
            raise self._broken(name, _line_of(error, name), str(error.message)) from error

    def _broken(self, name: str, line: int, why: str) -> ConfigError:
        where = self.folder or self.room
        return ConfigError(f"{where}/{name}:{line}: the template is wrong", details=why)


def _line_of(error: BaseException, name: str) -> int:
    """Return the line of template `name` where `error` arose: Jinja puts it into the traceback."""
    line, trace = 0, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


@functools.cache
def _environment(templates: Templates) -> Environment:
    import jinja2

    def load(name: str) -> tuple[str, str, None]:
        return templates.text(name), name, None

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        undefined=jinja2.StrictUndefined,
        block_start_string="@@%",
        block_end_string="%@@",
        variable_start_string="@@{",
        variable_end_string="}@@",
        comment_start_string="@@#",
        comment_end_string="#@@",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the languages here are not HTML: each value names its filter
    )
    environment.filters.update(_FILTERS)
    return environment


# --- pages ------------------------------------------------------------------------------------------

_LONGEST = 1000
"""Characters of a value that get onto a page."""


def render_page(name: str, values: Mapping[str, Any]) -> str:
    """Return a page of pkgkmod/data/report filled in.

    Values are escaped for HTML; characters that drive terminals or turn the direction of text are made visible.
    """
    return _page_environment().get_template(name).render(values)


def page_text(text: object) -> object:
    """Return a value as it gets onto a page, before it is escaped; markup and other types stay as they are."""
    if not isinstance(text, str) or hasattr(text, "__html__"):
        return text
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text) - _LONGEST} more characters)"
    return text if text.isprintable() else escape_controls(text)


@functools.cache
def _page_environment() -> Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("pkgkmod.data", "report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
        finalize=page_text,
    )
