"""What annotations name, without what importing ``typing`` and ``collections.abc`` costs.

A run imports sixty modules of this package before its guest starts, and ``typing`` with all that
it imports, and ``typing.NamedTuple``, which compiles every annotation that is a string, were a
third of the time (docs/decisions/0046-start-without-typing.md).  Type checkers see the real
things here; at run time there are stand-ins that cost nothing, and a NamedTuple that does the
same with less.
"""

from __future__ import annotations

__all__ = (
    "IO", "TYPE_CHECKING", "Any", "BinaryIO", "Callable", "Final", "Iterable", "Iterator", "Mapping",
    "MutableMapping", "NamedTuple", "NewType", "NoReturn", "Protocol", "Sequence", "TypeGuard",
)  # fmt: skip

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
    from typing import IO, Any, BinaryIO, Final, NamedTuple, NewType, NoReturn, Protocol, TypeGuard
else:
    from _collections import _tuplegetter as _field  # the C half of collections.namedtuple
    from _collections_abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence

    class Protocol:
        """A base without effect: what has the right methods needs no other mark."""

        __slots__ = ()

    class Any:
        """Stands for itself."""

    Final = NoReturn = TypeGuard = IO = BinaryIO = Any

    def NewType(name, base):  # noqa: N802  # as typing calls it
        """The base itself: calling it with one of its values gives that value back."""
        return base

    class _Kind(type):
        """Makes the classes: fields from the annotations, in their order."""

        def __new__(cls, name, bases, namespace):
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            namespace.update((field, _field(at, "")) for at, field in enumerate(fields))
            fixed = {
                "__match_args__": fields,
                "_fields": fields,
                "_field_defaults": defaults,
                "_last": tuple(defaults.values()),
            }
            return type(name, (tuple,), _METHODS | fixed | namespace)

    class _Fields:
        """The methods of each such class (those of collections.namedtuple)."""

        def __new__(cls, *values, **named):
            if named or len(values) != len(cls._fields):
                values = cls._completed(values, named)
            return tuple.__new__(cls, values)

        @classmethod
        def _completed(cls, values, named):
            """All values in order.  Raises TypeError, as calling any function wrongly does."""
            fields = cls._fields
            if not named:
                missing = len(fields) - len(values)
                if 0 < missing <= len(cls._last):
                    return (*values, *cls._last[-missing:])
            if len(values) > len(fields):
                raise TypeError(f"{cls.__name__} takes {len(fields)} values, not {len(values)}")
            rest = cls._field_defaults | named
            for field in fields[: len(values)]:
                if field in named:
                    raise TypeError(f"{cls.__name__}: {field} is given twice")
            for field in named:
                if field not in fields:
                    raise TypeError(f"{cls.__name__} has no {field}")
            try:
                return (*values, *[rest[field] for field in fields[len(values) :]])
            except KeyError as error:
                raise TypeError(f"{cls.__name__}: {error.args[0]} is missing") from None

        @classmethod
        def _make(cls, values):
            made = tuple.__new__(cls, values)
            if len(made) != len(cls._fields):
                raise TypeError(f"{cls.__name__} takes {len(cls._fields)} values, not {len(made)}")
            return made

        def _replace(self, **named):
            made = tuple.__new__(type(self), map(named.pop, self._fields, self))
            if named:
                raise ValueError(f"{type(self).__name__} has no {', '.join(named)}")
            return made

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            parts = [f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True)]
            return f"{type(self).__name__}({', '.join(parts)})"

        def __getnewargs__(self):
            return tuple(self)

    _OF_ANY_CLASS = vars(type("", (), {}))
    _METHODS = {name: value for name, value in vars(_Fields).items() if name not in _OF_ANY_CLASS}
    _METHODS["__slots__"] = ()

    class NamedTuple(metaclass=_Kind):
        """``typing.NamedTuple``; its subclasses are subclasses of tuple."""
