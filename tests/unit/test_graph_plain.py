"""Values lose their classes for marshal and get back only this project's."""

from __future__ import annotations

import marshal

import pytest

from runner.definition.model import Cpus, FilePath
from runner.graph.model import Claim, Node, PortClaim
from runner.graph.plain import plain, revive

NODE = Node(
    "uart16550", "serial", "", {"mode": "tty", "list": [1, None, {"a": 2.5}]}, Claim((PortClaim(8, 0x3F8),))
)


@pytest.mark.parametrize(
    "value", [NODE, (1, (2, "x")), Cpus(), FilePath("a", "/a"), {"k": (NODE,)}, None, []]
)
def test_a_value_comes_back_as_it_was(value):
    back = revive(marshal.loads(marshal.dumps(plain(value))))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "name", ["os:system", "runner.cli:main", "builtins:eval", "runner.errors:VmrunError"]
)
def test_only_value_modules_are_looked_in(name):
    with pytest.raises(ValueError, match="no value of this project"):
        revive((name, ("x",)))
