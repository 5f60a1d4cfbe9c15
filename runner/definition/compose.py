"""The whole schema out of its parts: the machine's own keys and one fragment per device.

A fragment says with ``x-vmrun`` where it plugs in:

``{"section": "disks", "key": "bus", "value": "virtio"}``  one kind among several of ``[disks.NAME]``
``{"section": "net"}``                                     the only kind of ``[net.NAME]``
``{"section": "vsock", "single": true}``                   the key ``vsock`` itself, no names
``{"platform": true}``                                     what every machine has; no key at all

So adding a device adds a fragment and changes no other file but the composed
``schemas/vm.schema.json``, which is what editors and the loader read.
"""

from __future__ import annotations

from runner.typed import Any, Mapping

Schema = dict[str, Any]


def compose(machine: Schema, fragments: Mapping[str, Schema]) -> Schema:
    """One self-contained draft-07 schema.  ``fragments`` maps a device's kind to its fragment."""
    whole: Schema = {**machine, "properties": dict(machine["properties"])}
    definitions: Schema = dict(machine.get("definitions", {}))
    variants: dict[str, list[str]] = {}
    for kind in sorted(fragments):
        plug = fragments[kind]["x-vmrun"]
        section = plug.get("section")
        if section is None:
            continue
        definitions[kind] = _embedded(kind, fragments[kind])
        if plug.get("single"):
            if section in whole["properties"]:
                raise ValueError(f"{kind}: the key {section} is taken")
            whole["properties"][section] = {"$ref": f"#/definitions/{kind}"}
        else:
            variants.setdefault(section, []).append(kind)
    for section, kinds in variants.items():
        whole["properties"][section] = _with_variants(whole["properties"][section], kinds, fragments)
    whole["properties"] = {
        name: part for name, part in whole["properties"].items() if not _is_empty_section(part)
    }
    whole["definitions"] = definitions
    return whole


def _embedded(kind: str, fragment: Schema) -> Schema:
    """A fragment as an entry of ``definitions``; ``x-vmrun`` also names the device module."""
    body = {key: part for key, part in fragment.items() if key not in ("$schema", "$id")}
    return {**body, "x-vmrun": {"kind": kind, **fragment["x-vmrun"]}}


def _with_variants(section: Schema, kinds: list[str], fragments: Mapping[str, Schema]) -> Schema:
    refs = [{"$ref": f"#/definitions/{kind}"} for kind in kinds]
    keys = {fragments[kind]["x-vmrun"].get("key") for kind in kinds}
    if len(refs) == 1:  # editors say more about one kind than about a choice of one
        return {**section, "additionalProperties": refs[0]}
    if len(keys) != 1 or None in keys:
        raise ValueError(f"{', '.join(kinds)}: the kinds of one section share one discriminating key")
    return {**section, "additionalProperties": {"oneOf": refs, "x-vmrun": {"key": keys.pop()}}}


def _is_empty_section(part: Schema) -> bool:
    """A section of named tables into which no device plugs would accept anything: it is left out."""
    return "propertyNames" in part and "additionalProperties" not in part
