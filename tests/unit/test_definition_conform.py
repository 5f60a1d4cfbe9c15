"""The walk along the schema agrees with a general validator, and gives every stage its values."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.definition import formats
from runner.definition.conform import Conformed, conform
from runner.definition.schema import whole_schema

SCHEMA = whole_schema()
BASE = formats.Base("/vms", "/home/me")

RIGHT: tuple[dict[str, Any], ...] = (
    {"kernel": "vmlinuz"},
    {"kernel": {"deb": "linux-image-amd64", "version": "6.1"}, "serial": {"file": "log"}},
    {"kernel": {"url": "https://x/y", "sha256": "a" * 64}, "engine": "kvm", "timeout": "60s"},
    {"kernel": "k", "initramfs": {"run": "true", "modules": ["ext4"], "files": {"/etc/x": "x"}}},
    {"kernel": "k", "cpus": {"count": 4, "topology": {"cores": 2, "threads": 2}, "features": ["+svm"]}},
    {"kernel": "k", "memory": {"size": "2G", "hugepages": "2M", "zones": [{"size": "2G", "cpus": [0]}]}},
    {"kernel": "k", "disks": {"a": {"path": "x", "format": "raw"}, "b": {"path": "y", "format": "qcow2"}}},
    {
        "kernel": "k",
        "net": {"a": {"backend": "tap", "tap": "t0"}, "b": {"forwards": [{"host": 1, "guest": 2}]}},
    },
    {"kernel": "k", "fs": {"a": {"path": "/"}, "b": {"driver": "9p", "path": "/", "readonly": True}}},
    {"kernel": "k", "devices": {"r": {"driver": "vfio", "match": {"vendor": "10ec"}, "bind": "never"}}},
    {
        "kernel": "k",
        "devices": {"r": {"driver": "vfio", "host": "01:00.0"}, "c": {"driver": "sdhci-pci", "blank": "8M"}},
    },
    {
        "kernel": "k",
        "rng": True,
        "balloon": {"free_page_reporting": False},
        "vsock": {"cid": 3},
        "watchdog": False,
    },
    {
        "kernel": "k",
        "console": {"target": "pty", "ports": [{"name": "a"}]},
        "debugcon": "pty",
        "pvpanic": True,
    },
)


def walked(document: dict[str, Any]) -> Conformed:
    return conform(SCHEMA, document, lambda _: BASE)


def checker() -> jsonschema.FormatChecker:
    """Our formats, told to the general validator."""
    known = jsonschema.FormatChecker(formats=())
    for form in formats.WORDS:

        def fits(text: object, form: str = form) -> bool:
            if isinstance(text, str):
                formats.read(form, text, BASE)
            return True

        known.checks(form, formats.FormatFault)(fits)
    return known


ORACLE = jsonschema.Draft7Validator(SCHEMA, format_checker=checker())
SCALARS = st.sampled_from(
    [
        "",
        "x",
        "raw",
        "tap",
        "user",
        "vfio",
        "virtio",
        "9p",
        "512M",
        "60s",
        "tty",
        "/x",
        "00:05.0",
        "01:00.0",
        "+svm",
        "10ec",
        0,
        1,
        2,
        300,
        -1,
        True,
        False,
        1.5,
    ]
)
KEYS = st.sampled_from(
    [
        "path",
        "format",
        "driver",
        "bus",
        "slot",
        "tap",
        "forwards",
        "backend",
        "host",
        "match",
        "count",
        "size",
        "file",
        "socket",
        "deb",
        "url",
        "sha256",
        "xyzzy",
        "a b",
        "blank",
        "card",
        "readonly",
        "cid",
        "ports",
        "target",
        "name",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything inside a document."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        found.append((value, key))
        found.extend(places(part))
    return found


@settings(max_examples=600)
@given(st.sampled_from(RIGHT), st.data())
def test_the_walk_and_a_general_validator_agree(right: dict[str, Any], data: st.DataObject) -> None:
    """A right document with a few changes is refused by both or by neither."""
    document = copy.deepcopy(right)
    for _ in range(data.draw(st.integers(0, 3))):
        container, key = data.draw(st.sampled_from(places(document) or [(document, "kernel")]))
        change = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace":
            container[key] = data.draw(VALUES)
        elif change == "remove":
            container.pop(key, *([None] if isinstance(container, dict) else []))
        elif isinstance(container, dict):
            container[data.draw(KEYS)] = data.draw(VALUES)
    agree = not list(ORACLE.iter_errors(document))
    assert (not walked(document).complaints) == agree, [
        error.message for error in ORACLE.iter_errors(document)
    ]


@pytest.mark.parametrize("document", RIGHT)
def test_a_right_document_passes(document: dict[str, Any]) -> None:
    """No complaint about what is right."""
    assert walked(document).complaints == ()


def test_sizes_durations_and_paths_become_values() -> None:
    """Bytes, seconds, and a path with both its words and where it leads."""
    value = walked({"kernel": "sub/../k", "memory": "2GiB", "timeout": "1.5m", "initramfs": "~/i"}).value
    assert value["memory"] == 2 << 30
    assert value["timeout"] == 90.0
    assert value["kernel"] == {"text": "sub/../k", "resolved": "/vms/sub/../k"}
    assert value["initramfs"] == {"text": "~/i", "resolved": "/home/me/i"}


def test_defaults_are_filled_in() -> None:
    """What the file does not say is in the result, in its final form."""
    value = walked({"kernel": "k", "net": {"a": {}}, "fs": {"src": {"path": "x"}}}).value
    assert (value["cpus"], value["memory"], value["engine"]) == (1, 512 << 20, ["kvm", "qemu"])
    assert value["net"]["a"]["backend"] == "user"
    assert value["fs"]["src"]["tag"] == "src"


def test_a_switch_is_the_table_with_every_default() -> None:
    """``balloon = true`` and ``[balloon]`` mean the same."""
    assert walked({"kernel": "k", "balloon": True}).value == walked({"kernel": "k", "balloon": {}}).value


def test_the_kind_replaces_the_key_that_told_it() -> None:
    """``driver`` and ``bus`` of a disk choose the device module and are then gone."""
    done = walked({"kernel": "k", "disks": {"a": {"path": "x", "format": "raw", "bus": "virtio"}}})
    assert done.kinds[("disks", "a")] == "virtio_blk"
    assert "bus" not in done.value["disks"]["a"]


def test_what_is_wrong_is_left_out_and_the_rest_is_kept() -> None:
    """Later checks see all that is valid, and nothing that is not."""
    done = walked({"kernel": "k", "cpus": 0, "disks": {"a": {"path": 5, "format": "raw"}}})
    assert "cpus" not in done.value
    assert done.value["disks"]["a"]["format"] == "raw"
    assert "path" not in done.value["disks"]["a"]
    assert len(done.complaints) == 2


def test_every_path_of_the_host_is_listed() -> None:
    """Whoever looks at files afterwards is told of each, with its format."""
    done = walked({"kernel": "k", "serial": {"file": "log"}, "initramfs": {"files": {"/x": "y"}}})
    assert [(host.path, host.form, host.resolved) for host in done.host_paths] == [
        (("kernel",), "vm-file", "/vms/k"),
        (("serial", "file"), "vm-output", "/vms/log"),
        (("initramfs", "files", "/x"), "vm-entry", "/vms/y"),
    ]


def test_a_deep_document_ends_the_walk() -> None:
    """Nesting beyond the schema's depth is not followed."""
    deep: Any = 1
    for _ in range(500):
        deep = {"x": deep}
    assert [one.code for one in walked({"kernel": "k", "disks": deep}).complaints] == [
        "unknown-key",
        "missing-key",
        "missing-key",
    ]
