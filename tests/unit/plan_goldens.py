"""The plans of every file in ``vms/`` for three stored hosts, as text that a golden file can hold.

``python -m tests.unit.plan_goldens`` writes them anew; the change is then read in the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from runner.definition.load import load
from runner.errors import VmrunError
from runner.graph.encode import dumps, from_json
from runner.graph.plan import plan
from runner.graph.show import show
from runner.hostfacts import HostFacts

CHECKOUT = Path(__file__).parents[2]
GOLDEN = CHECKOUT / "tests" / "golden"
PLANS = GOLDEN / "plans"
HOSTS = ("laptop", "lab", "cloud")
"""A laptop with KVM and a card reader; the lab; a cloud machine without KVM."""

DIGEST = "0" * 64  # a comment in the file must not change a golden file


def definitions() -> list[str]:
    """Every reference machine, relative to the checkout."""
    return sorted(str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "vms").rglob("*.toml"))


def host(name: str) -> HostFacts:
    """One of the stored hosts."""
    return from_json(HostFacts, json.loads((GOLDEN / "hosts" / f"{name}.json").read_text()))


def golden(path: str, host_name: str, form: str) -> Path:
    """Where the golden file of a definition lies: ``plans/lab/cardreader.laptop.json``."""
    stem = Path(path).relative_to("vms").with_suffix("")
    return PLANS / stem.parent / f"{stem.name}.{host_name}.{form}"


def rendered(path: str, host_name: str) -> dict[str, str]:
    """Tree and JSON without anything of this checkout; a refusal is its message."""
    before = os.getcwd(), os.environ.get("HOME")
    os.chdir(CHECKOUT)
    os.environ["HOME"] = "/home/user"
    try:
        graph = plan(load(path), host(host_name))._replace(digest=DIGEST)
        texts = {"txt": show(graph), "json": dumps(graph)}
    except VmrunError as error:
        texts = {"txt": f"{type(error).__name__}: {error}\nhint: {error.hint}\n"}
    finally:
        os.chdir(before[0])
        os.environ.update({"HOME": before[1]} if before[1] is not None else {})
    return {form: text.replace(str(CHECKOUT), "CHECKOUT") for form, text in texts.items()}


def write() -> None:
    """All golden files anew; those of definitions that are gone are removed."""
    wanted = {}
    for path in definitions():
        for name in HOSTS:
            wanted |= {golden(path, name, form): text for form, text in rendered(path, name).items()}
    for stale in set(PLANS.rglob("*.*")) - set(wanted):
        stale.unlink()
    for file, text in wanted.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    write()
