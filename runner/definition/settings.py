"""``--set KEY=VALUE``: a key of the definition said on the command line, as if it stood in the file.

KEY is written as TOML writes a dotted key (``fs.src.path``), VALUE as a TOML value; what is
no TOML value is taken as text, so that ``--set memory=4G`` needs no quotes.  There is one
model: every key of the schema can be set, and is checked like any other.
"""

from __future__ import annotations

from runner.definition.findings import Complaint, Finding, Path
from runner.errors import UsageError
from runner.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from runner.definition.assembly import Assembly


class Setting(NamedTuple):
    """One ``--set``: where it goes, what is put there, and its words."""

    path: Path
    value: Any
    text: str


def parse(text: str) -> Setting:
    """``"cpus=4"``.  Raises UsageError."""
    key, equals, value = text.partition("=")
    path = _path(key)
    if not equals or not path:
        raise UsageError(f"--set {text}: not KEY=VALUE", hint="--set cpus=4, --set fs.src.path=/srv/src")
    return Setting(path, _value(value.strip()), text)


def apply(document: dict[str, Any], settings: tuple[Setting, ...]) -> dict[str, Any]:
    """A document with the settings in it; the given one is left as it is.  Raises UsageError."""
    for setting in settings:
        document = _with(document, setting.path, setting)
    return document


def put(assembly: Assembly, settings: tuple[Setting, ...]) -> Assembly:
    """An assembly with the settings in it, as if they stood in the file itself.  Raises UsageError."""
    paths = {setting.path for setting in settings}
    if ("extends",) in paths:
        raise UsageError("--set extends: stands in the file itself, since it says which files are read")
    origin = {
        place: index
        for place, index in assembly.origin.items()
        if not any(place[: len(path)] == path for path in paths)
    }
    return assembly._replace(
        value=apply(assembly.value, settings), origin={**origin, **dict.fromkeys(paths, 0)}
    )


def locate(
    complaint: Complaint, settings: tuple[Setting, ...], texts: tuple[dict[str, Any], ...] = ()
) -> Finding | None:
    """The finding for a complaint about what a setting said; None when one of the ``texts`` said it.

    A table that only a setting made (``--set disks.a.path=x``) is the setting's too.
    """
    for setting in reversed(settings):
        inside = complaint.path[: len(setting.path)] == setting.path
        around = complaint.path and complaint.path == setting.path[: len(complaint.path)]
        if not inside and (not around or any(says(text, complaint.path) for text in texts)):
            continue
        equals = setting.text.index("=")
        first, end = (
            (0, equals) if complaint.where == "key" or not inside else (equals + 1, len(setting.text))
        )
        return Finding(
            "--set", 1, first + 1, end + 1, complaint.severity, complaint.code, complaint.message,
            complaint.expected, complaint.found, complaint.suggestion, complaint.hint, setting.text,
        )  # fmt: skip
    return None


def says(document: Any, path: Path) -> bool:
    """Whether a document has something at a place."""
    for part in path:
        known = isinstance(part, str) and isinstance(document, dict) and part in document
        if not known and not (isinstance(part, int) and isinstance(document, list) and part < len(document)):
            return False
        document = document[part]
    return True


def _path(key: str) -> Path:
    import tomllib

    try:
        found: Any = tomllib.loads(f"{key} = 0")
    except ValueError:
        return ()
    path = []
    while isinstance(found, dict) and len(found) == 1:
        name, found = next(iter(found.items()))
        path.append(name)
    return tuple(path) if found == 0 else ()


def _value(text: str) -> Any:
    import tomllib

    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return found["value"] if len(found) == 1 else text


def _with(table: dict[str, Any], path: Path, setting: Setting) -> dict[str, Any]:
    name = str(path[0])
    if len(path) == 1:
        return {**table, name: setting.value}
    below = table.get(name, {})
    if not isinstance(below, dict):
        raise UsageError(f"--set {setting.text}: `{name}` is {below!r} in the file, and no table")
    return {**table, name: _with(below, path[1:], setting)}
