"""The document against the schema: every fault at once, and the values every later stage wants.

This walks document and schema together, once.  It checks (the keywords of draft-07 that our
schema uses, no others: a test holds the two together), fills in defaults, and turns formatted
strings into bytes, seconds and resolved paths.  What is wrong is left out of the result and
told in sentences.  Why this is not a general validator: docs/decisions/0031.
"""

from __future__ import annotations

from runner.definition import describe, formats, key_faults, value_faults, words
from runner.definition.branches import chosen_branch, holds
from runner.definition.compose import Schema
from runner.definition.findings import MOST, Complaint, Path
from runner.definition.schema import resolved
from runner.typed import Any, Callable, Mapping, NamedTuple

INVALID = object()
"""Stands for a value that was complained about."""

MAX_DEPTH = 32  # the schema is about eight deep; what is deeper is foreign and not looked into


class HostPath(NamedTuple):
    """A path of the document that means something on this host: its place, format and words."""

    path: Path
    form: str
    text: str
    resolved: str


class Conformed(NamedTuple):
    """The document after the schema.

    ``value`` holds everything that is valid, with defaults; ``kinds`` maps the path of each
    device to its kind; ``host_paths`` are all paths in the order of the schema.
    """

    value: dict[str, Any]
    complaints: tuple[Complaint, ...]
    kinds: dict[Path, str]
    host_paths: tuple[HostPath, ...]


def conform(
    schema: Schema,
    document: Mapping[str, Any],
    base: Callable[[Path], formats.Base],
    *,
    whole: bool = True,
) -> Conformed:
    """Check ``document`` (as tomllib gives it) and bring it into its final form.

    ``base`` says for a place what a relative path there is relative to.  When the document is not
    ``whole`` (a statement could not be read), a key that is not there may have been meant: no
    default takes its place, and nothing is concluded from its absence.
    """
    walk = _Walk(schema, base, whole)
    value = walk.visit(schema, document, ())
    if value is INVALID:
        value = {}
    return Conformed(value, tuple(walk.complaints), walk.kinds, tuple(walk.host_paths))


class _Walk:
    def __init__(self, root: Schema, base: Callable[[Path], formats.Base], whole: bool) -> None:
        self.root = root
        self.base = base
        self.whole = whole
        self.complaints: list[Complaint] = []
        self.kinds: dict[Path, str] = {}
        self.host_paths: list[HostPath] = []

    def visit(self, schema: Schema, value: Any, path: Path) -> Any:
        """The final form of ``value``, or INVALID when it (itself) cannot be used."""
        schema = resolved(self.root, schema)
        plug = schema.get("x-vmrun", {})
        if "kind" not in plug:
            return self._form(schema, value, path)
        self.kinds[path] = plug["kind"]
        final = self._form(schema, value, path)
        if "key" in plug and isinstance(final, dict):
            final.pop(plug["key"], None)  # it has been turned into the kind
        return final

    def _form(self, schema: Schema, value: Any, path: Path) -> Any:
        if len(path) > MAX_DEPTH or len(self.complaints) >= MOST:
            return INVALID
        if not self._type_fits(schema, value, path) or not self._listed(schema, value, path):
            return INVALID
        # A oneOf of mere `required` lists says which keys exclude each other; see _table.
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema and not describe.is_choice_of_keys(schema[keyword]):
                return self._branch(schema, keyword, value, path)
        if isinstance(value, Mapping):
            return self._table(schema, value, path)
        if isinstance(value, list):
            return self._array(schema, value, path)
        return self._scalar(schema, value, path)

    def _type_fits(self, schema: Schema, value: Any, path: Path) -> bool:
        wanted = schema.get("type")
        if wanted is None or describe.type_name(value) == wanted:
            return True
        self.complaints.append(value_faults.wrong_type(self.root, schema, value, path))
        return False

    def _listed(self, schema: Schema, value: Any, path: Path) -> bool:
        options = [schema["const"]] if "const" in schema else schema.get("enum")
        if options is None or value in options:
            return True
        self.complaints.append(value_faults.not_listed(options, value, path, []))
        return False

    def _branch(self, schema: Schema, keyword: str, value: Any, path: Path) -> Any:
        branches = [resolved(self.root, part) for part in schema[keyword]]
        key = schema.get("x-vmrun", {}).get("key")
        tables = [part for part in branches if part.get("type") == "object"]
        switch = any(part.get("type") == "boolean" for part in branches)
        if value is True and switch and tables:  # `rng = true` is the table with every default
            return self.visit(tables[0], {}, path)
        found = chosen_branch(branches, value, key)
        if found is not None:
            return self.visit(found, value, path)
        if key and isinstance(value, Mapping):
            self.complaints += key_faults.no_variant(branches, key, value, path)
        elif isinstance(value, Mapping) and any(part.get("type") == "object" for part in branches):
            self.complaints.append(key_faults.no_table(self.root, branches, value, path))
        elif isinstance(value, str) and any("enum" in part for part in branches):
            options = [word for part in branches for word in part.get("enum", ())]
            self.complaints.append(value_faults.not_listed(options, value, path, branches))
        else:
            self.complaints.append(value_faults.wrong_type(self.root, schema, value, path))
        return INVALID

    # -- tables -----------------------------------------------------------------------------

    def _table(self, schema: Schema, value: Mapping[str, Any], path: Path) -> dict[str, Any]:
        properties: Schema = schema.get("properties", {})
        result: dict[str, Any] = {}
        unknown: list[str] = []
        for name, part in value.items():
            below = self._entry(schema, properties, name, path, unknown)
            if below is None:
                continue
            final = self.visit(below, part, (*path, name))
            if final is not INVALID:
                result[name] = final
        self._unknown_keys(schema, unknown, value, path)
        here = list(properties)
        misspelt = {words.meant(name, here)[0] for name in unknown[:MOST]}  # told already
        self._missing_keys(schema, value, path, misspelt)
        self._exclusions(schema, value, path, misspelt)
        self._fill_defaults(properties, value, result, path)
        return result

    def _entry(
        self, schema: Schema, properties: Schema, name: str, path: Path, unknown: list[str]
    ) -> Schema | None:
        """The schema of one key; None for a key that is not to be looked into."""
        if name in properties:
            found: Schema = properties[name]
            return found
        names = resolved(self.root, schema.get("propertyNames", {}))
        if "pattern" in names and not describe.matches(names["pattern"], name):
            self.complaints.append(key_faults.bad_name(names, name, path))
            return None
        extra = schema.get("additionalProperties", True)
        if isinstance(extra, dict):
            return extra
        unknown.append(name)
        return None

    def _unknown_keys(self, schema: Schema, unknown: list[str], value: Mapping[str, Any], path: Path) -> None:
        for name in unknown[: max(MOST - len(self.complaints), 0)]:
            self.complaints.append(key_faults.unknown_key(self.root, schema, name, value[name], path, value))

    def _missing_keys(self, schema: Schema, value: Mapping[str, Any], path: Path, misspelt: set[str]) -> None:
        for name in schema.get("required", ()):
            if name not in value and name not in misspelt:
                self.complaints.append(key_faults.missing_key(self.root, schema, name, path))
        for name, needs in schema.get("dependencies", {}).items():
            for other in needs:
                if name in value and other not in value and other not in schema.get("required", ()):
                    self.complaints.append(key_faults.needs_key(name, other, path))

    def _exclusions(self, schema: Schema, value: Mapping[str, Any], path: Path, misspelt: set[str]) -> None:
        choice = schema.get("oneOf")
        if choice and describe.is_choice_of_keys(choice):
            names = [part["required"][0] for part in choice]
            present = [name for name in names if name in value]
            if len(present) != 1 and not (not present and misspelt.intersection(names)):
                self.complaints.extend(key_faults.not_exactly_one(names, present, path))
        if self.whole and len(value) < schema.get("minProperties", 0):
            self.complaints.append(key_faults.empty_table(schema, path))
        for rule in schema.get("allOf", ()):
            if holds(rule["if"], value) and (self.whole or value.keys() >= rule["if"]["properties"].keys()):
                for name in rule["then"]["properties"]:
                    if name in value:
                        self.complaints.append(key_faults.without_effect(name, rule["if"], path))

    def _fill_defaults(
        self, properties: Schema, value: Mapping[str, Any], result: dict[str, Any], path: Path
    ) -> None:
        for name, part in properties.items():
            if name in value or not self.whole:
                continue
            below = resolved(self.root, part)
            if "default" in below:
                final = self.visit(below, below["default"], (*path, name))
                self.kinds.pop((*path, name), None)  # nobody asked for this device
                if final is not INVALID:
                    result[name] = final
            elif below.get("x-vmrun", {}).get("default") == "name" and path:
                result[name] = str(path[-1])

    # -- arrays and scalars -----------------------------------------------------------------

    def _array(self, schema: Schema, value: list[Any], path: Path) -> list[Any]:
        if len(value) < schema.get("minItems", 0):
            self.complaints.append(value_faults.too_few(self.root, schema, path))
        result = []
        seen: dict[str, int] = {}
        for index, part in enumerate(value):
            if schema.get("uniqueItems") and seen.setdefault(repr(part), index) != index:
                self.complaints.append(value_faults.repeated(part, seen[repr(part)], (*path, index)))
            final = self.visit(schema["items"], part, (*path, index)) if "items" in schema else part
            if final is not INVALID:
                result.append(final)
        return result

    def _scalar(self, schema: Schema, value: Any, path: Path) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return self._integer(schema, value, path)
        if isinstance(value, str):
            return self._string(schema, value, path)
        return value

    def _integer(self, schema: Schema, value: int, path: Path) -> Any:
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            self.complaints.append(value_faults.out_of_range(schema, value, path))
            return INVALID
        return value

    def _string(self, schema: Schema, value: str, path: Path) -> Any:
        form = schema.get("format", "")
        if not self.whole and "{{" in value:
            return INVALID  # its parameter may stand in what could not be read
        try:
            final = formats.read(form, value, self.base(path)) if form else value
        except formats.FormatFault as fault:
            self.complaints.append(value_faults.bad_format(form, value, fault, path))
            return INVALID
        if form in formats.PATH_FORMATS and isinstance(final, dict):
            self.host_paths.append(HostPath(path, form, value, str(final["resolved"])))
        if not self._string_fits(schema, value, path):
            return INVALID
        return final

    def _string_fits(self, schema: Schema, value: str, path: Path) -> bool:
        length = len(value)
        if length < schema.get("minLength", 0) or length > schema.get("maxLength", length):
            self.complaints.append(value_faults.bad_length(schema, value, path))
            return False
        if "pattern" in schema and not describe.matches(schema["pattern"], value):
            self.complaints.append(value_faults.bad_pattern(schema, value, path))
            return False
        return True
