"""``[params]``: values with a name, which the strings of a definition take with ``{{NAME}}``.

A string that is nothing but one reference becomes the parameter's value with its type; inside a
longer string it becomes text.  A reference is looked for only where there is a table ``params``,
and what was put in is not looked through again.
"""

from __future__ import annotations

import re

from runner.definition import words
from runner.definition.assembly import Assembly
from runner.definition.describe import quoted
from runner.definition.findings import Complaint, Path
from runner.typed import Any, Iterator

KEY = "params"
REFERENCE = re.compile(r"\{\{\s*([A-Za-z][A-Za-z0-9_-]*)\s*\}\}")


def fill(assembly: Assembly) -> tuple[Assembly, tuple[Complaint, ...]]:
    """The assembly with its references replaced, and what is wrong with them."""
    table = assembly.value.get(KEY)
    if not isinstance(table, dict):
        return assembly, ()
    filling = _Filling(table)
    value = {key: part if key == KEY else filling.visit(part, (key,)) for key, part in assembly.value.items()}
    return assembly._replace(value=value, taken=filling.taken), tuple(filling.complaints)


class _Filling:
    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table
        self.taken: dict[Path, Path] = {}
        self.complaints: list[Complaint] = []

    def visit(self, part: Any, path: Path) -> Any:
        """A value with its references replaced."""
        if isinstance(part, dict):
            return {key: self.visit(below, (*path, key)) for key, below in part.items()}
        if isinstance(part, list):
            return [self.visit(below, (*path, number)) for number, below in enumerate(part)]
        return self._string(part, path) if isinstance(part, str) else part

    def _string(self, text: str, path: Path) -> Any:
        if "{{" not in text:
            return text
        self.complaints += _malformed(text, path, list(self._table))
        faults = list(self._faults(text, path))
        if faults:
            self.complaints += faults
            return text
        alone = REFERENCE.fullmatch(text)
        if alone:
            place = self._place(alone[1])
            self.taken[path] = place
            return self._value(place)
        return REFERENCE.sub(lambda match: _as_text(self._value(self._place(match[1]))), text)

    def _place(self, name: str) -> Path:
        """Where the value of a parameter stands: the key itself, or ``default`` of its table."""
        return (KEY, name, "default") if isinstance(self._table[name], dict) else (KEY, name)

    def _value(self, place: Path) -> Any:
        found: Any = self._table
        for part in place[1:]:
            found = found[part]
        return found

    def _faults(self, text: str, path: Path) -> Iterator[Complaint]:
        for match in REFERENCE.finditer(text):
            name = match[1]
            if name not in self._table:
                yield _unknown(name, path, list(self._table))
                continue
            said = self._table[name]
            if isinstance(said, dict) and "default" not in said:
                yield _no_value(name, path, str(said.get("description", "")))
            elif match[0] != text and not isinstance(self._value(self._place(name)), str | int | float):
                yield Complaint(
                    path, "value", "parameter", f"the parameter `{name}` is no text", "a string or a number",
                    "an array", hint="an array is taken as a whole: the string is the reference alone",
                )  # fmt: skip


def _malformed(text: str, path: Path, names: list[str]) -> Iterator[Complaint]:
    """What begins like a reference and is none: misspelt, or meant for somebody in the guest."""
    between = re.compile(
        rf"{REFERENCE.pattern}|(?P<other>\{{\{{(?!\{{)(?:(?!\{{\{{).)*?(?:\}}\}}|(?=\{{\{{)|$))", re.DOTALL
    )
    for match in between.finditer(text):
        other = match["other"]
        if other is None:
            continue
        near = words.closest(other[2:-2].strip(), names, 0.7) if other.endswith("}}") else ""
        yield Complaint(
            path, "value", "parameter",
            f"`{quoted(other)[1:-1]}` is no reference to a parameter, and stays in the text as it is",
            "{{NAME}}, a name being a letter, then letters, digits, `_` and `-`", quoted(other),
            f"{{{{{near}}}}}" if near else "", severity="warning",
        )  # fmt: skip


def _unknown(name: str, path: Path, names: list[str]) -> Complaint:
    near = words.closest(name, names)
    return Complaint(
        path, "value", "parameter", f"no parameter `{name}`", f"one of {', '.join(names)}" if names else "",
        f"{{{{{name}}}}}", f"{{{{{near}}}}}" if near else "", "" if near else f"give it a value in [{KEY}]",
    )  # fmt: skip


def _no_value(name: str, path: Path, description: str) -> Complaint:
    said = f" ({description})" if description else ""
    return Complaint(
        path, "value", "parameter", f"the parameter `{name}` has no value{said}", "a value", "none",
        hint=f"--set {KEY}.{name}=…",
    )  # fmt: skip


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
