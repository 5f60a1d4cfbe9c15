"""Where each key and value of a document stands: from tree-sitter's syntax tree.

tomllib gives values without positions.  tree-sitter-toml gives positions of every node.
This module is imported only when there is something to report (its two shared objects cost
25 ms, and a valid definition needs none of it).
"""

from __future__ import annotations

import tree_sitter
import tree_sitter_toml

from runner.definition.findings import Complaint, Path
from runner.definition.source import Source, Spot
from runner.typed import Iterator, NamedTuple

KEYS = ("bare_key", "quoted_key", "dotted_key")


class Stretch(NamedTuple):
    """Characters ``start`` to ``end`` of the text."""

    start: int
    end: int


class Repeat(NamedTuple):
    """A key that a table has had before: where now, and where first."""

    path: Path
    here: Stretch
    first: Stretch


class Positions:
    """The places of all keys and values of one document."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.keys: dict[Path, Stretch] = {}
        self.values: dict[Path, Stretch] = {}
        self.repeats: list[Repeat] = []
        self._tables: set[Path] = set()  # tables that a [header] has opened
        self._arrays: dict[Path, int] = {}  # [[header]]s seen so far
        parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_toml.language()))
        self._document(parser.parse(source.text.encode("utf-8", "replace")).root_node)

    # -- reading the tree -------------------------------------------------------------------

    def _document(self, root: tree_sitter.Node) -> None:
        for node in root.children:
            if node.type == "pair":
                self._pair(node, ())
            elif node.type in ("table", "table_array_element"):
                self._header(node)

    def _header(self, node: tree_sitter.Node) -> None:
        parts = next((list(self._key_parts(c)) for c in node.children if c.type in KEYS), [])
        if not parts:
            return
        path: Path = ()
        for name, stretch in parts[:-1]:
            path = self._inside((*path, name))
            self.keys.setdefault(path, stretch)
        name, stretch = parts[-1]
        path = (*path, name)
        if node.type == "table_array_element":
            self._note(path, stretch, stretch, repeat=path in self.keys and path not in self._arrays)
            self._arrays[path] = self._arrays.get(path, -1) + 1
            path = (*path, self._arrays[path])
            self.keys[path] = stretch
        else:
            self._note(path, stretch, stretch, repeat=path in self._tables or path in self.values)
            self._tables.add(path)
        for child in node.children:
            if child.type == "pair":
                self._pair(child, path)

    def _inside(self, path: Path) -> Path:
        """A header's path goes into the last element of an array of tables."""
        return (*path, self._arrays[path]) if path in self._arrays else path

    def _pair(self, node: tree_sitter.Node, base: Path) -> None:
        stack = [(node, base)]
        while stack:
            pair, path = stack.pop()
            parts = next((list(self._key_parts(c)) for c in pair.children if c.type in KEYS), [])
            value = next(
                (c for c in reversed(pair.named_children) if c.type not in (*KEYS, "comment", "ERROR")), None
            )
            if not parts or value is None:
                continue
            for name, stretch in parts[:-1]:
                path = self._inside((*path, name))
                self.keys.setdefault(path, stretch)
            path = (*path, parts[-1][0])
            self._note(path, parts[-1][1], self._stretch(value), repeat=path in self.keys)
            stack.extend(reversed(list(self._nested(value, path))))

    def _nested(self, value: tree_sitter.Node, path: Path) -> Iterator[tuple[tree_sitter.Node, Path]]:
        """The pairs inside a value, each with the table it belongs to; notes array entries."""
        todo = [(value, path)]
        while todo:
            node, at = todo.pop()
            if node.type == "inline_table":
                yield from ((child, at) for child in node.named_children if child.type == "pair")
            elif node.type == "array":
                entries = [c for c in node.named_children if c.type not in ("comment", "ERROR")]
                for index, child in enumerate(entries):
                    below = (*at, index)
                    self.values[below] = self.keys[below] = self._stretch(child)
                    todo.append((child, below))

    def _note(self, path: Path, key: Stretch, value: Stretch, *, repeat: bool) -> None:
        if repeat:
            self.repeats.append(Repeat(path, key, self.keys[path]))
            return
        self.keys[path] = key
        self.values[path] = value

    def _key_parts(self, node: tree_sitter.Node) -> Iterator[tuple[str, Stretch]]:
        stack = [node]
        while stack:
            part = stack.pop()
            if part.type == "dotted_key":
                stack.extend(c for c in reversed(part.named_children))
            elif part.type in KEYS:
                yield self._name(part), self._stretch(part)

    def _name(self, node: tree_sitter.Node) -> str:
        text = (node.text or b"").decode("utf-8", "replace")
        if node.type == "bare_key":
            return text
        import tomllib

        try:
            return next(iter(tomllib.loads(text + "=0")))
        except (ValueError, StopIteration):
            return text

    def _stretch(self, node: tree_sitter.Node) -> Stretch:
        return Stretch(self._characters(node.start_point), self._characters(node.end_point))

    def _characters(self, point: tree_sitter.Point) -> int:
        """tree-sitter counts bytes of a row from 0, people count characters."""
        if point.row >= len(self._source.lines):
            return len(self._source.text)
        line = self._source.lines[point.row]
        column = point.column
        if len(line) != len(line.encode("utf-8", "replace")):
            column = len(line.encode("utf-8", "replace")[:column].decode("utf-8", "replace"))
        return self._source.offset(point.row + 1, column + 1)

    # -- asking -----------------------------------------------------------------------------

    def spot(self, complaint: Complaint) -> Spot:
        """The place of a complaint; what is not in the text is shown at the table it belongs to."""
        path = complaint.path
        table = self.values if complaint.where == "value" else self.keys
        if path in table:
            return self._source.spot(*table[path])
        while path:
            for known in (self.keys, self.values):
                if path in known:
                    return self._source.spot(*known[path])
            path = path[:-1]
        return Spot(1, 1, 2)  # what the whole document lacks
