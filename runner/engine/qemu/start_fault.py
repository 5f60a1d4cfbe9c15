"""A QEMU that ends before the guest's first instruction: whose fault that is, and what mends it.

It has said so on standard error: one line that begins with its own name, warnings before it, and
sometimes lines of advice after it.
"""

from __future__ import annotations

import re

from runner.definition.model import Cpus
from runner.engine.qemu.arguments import PROGRAM
from runner.engine.qemu.machine import feature_name
from runner.errors import DefinitionError, HostError, HostPermissionError, InternalError, VmrunError
from runner.graph.engines import WITHOUT_FEATURE
from runner.graph.model import Graph
from runner.host.process_end import what_to_do
from runner.typed import Iterator

NO_MEMORY, FORBIDDEN = "Cannot allocate memory", "Permission denied"
KNOWN_CPUS = f"`{PROGRAM} -cpu help` lists what it knows"
NOT_OFFERED = re.compile(
    r"warning: (\S+) doesn't support requested feature: (?:CPUID\S*?:E[A-D]X|MSR\(\w+\))\.(\S+) \[bit"
)
"""Who has it not ("host" or "TCG"), and the name, with points where ``-cpu`` takes other signs, too."""


def start_fault(said: str, died: str, graph: Graph) -> VmrunError:
    """The error to raise; ``died`` is how the process ended, "" while it lives."""
    sentence, advice = _sentence(said)
    if died.startswith("killed"):  # by somebody, or by a fault of its own
        words = f"QEMU died before the guest's first instruction ({died}, {sentence})"
        return InternalError(words, hint=what_to_do(died))
    for fault in _of_cpus(sentence, graph.cpus):
        return fault
    kind = HostPermissionError if sentence.endswith(FORBIDDEN) else HostError
    return kind(f"QEMU does not start: {sentence}", hint=_hint(sentence, graph) or advice)


def refuse_lesser_cpus(said: str, cpus: Cpus) -> None:
    """Raise DefinitionError for a feature that was asked for and is not there.

    QEMU warns and goes on without it; of what a named model would have that is as it must be, since each host
    has something less.
    """
    asked = {_canonical(feature_name(word)): word[1:] for word in cpus.features if word[0] == "+"}
    for who, found in NOT_OFFERED.findall(said):
        if name := asked.get(_canonical(found)):
            offers = "this host's KVM" if who == "host" else "QEMU's emulation"
            words = f"cpus.features: {offers} does not offer `{name}` to guests"
            raise DefinitionError(words, hint=WITHOUT_FEATURE)


def _canonical(name: str) -> str:
    return name.replace("_", "-").replace(".", "-")


def _sentence(said: str) -> tuple[str, str]:
    """The last line that begins with QEMU's name, without it, and what stands below."""
    lines = said.strip().splitlines()
    for number in range(len(lines) - 1, -1, -1):
        name, colon, sentence = lines[number].partition(": ")
        if colon and name.rpartition("/")[2].startswith("qemu-"):
            return sentence.strip(), "\n".join(lines[number + 1 :])
    return (lines[-1] if lines else "QEMU said nothing"), ""


def _of_cpus(sentence: str, cpus: Cpus) -> Iterator[DefinitionError]:
    """A model or a feature that this QEMU has never heard of is the definition's."""
    if cpus.model and sentence == f"unable to find CPU model '{cpus.model}'":
        yield DefinitionError(f"cpus.model: QEMU knows no CPU model `{cpus.model}`", hint=KNOWN_CPUS)
    for word in cpus.features:
        if f"-x86_64-cpu.{word[1:]}=" in sentence:
            yield DefinitionError(f"cpus.features: QEMU knows no CPU feature `{word[1:]}`", hint=KNOWN_CPUS)


def _hint(sentence: str, graph: Graph) -> str:
    memory = graph.memory
    if NO_MEMORY not in sentence:
        return ""
    if memory.hugepages:
        from runner.host.memory import reserve_huge_pages

        return reserve_huge_pages(memory.size, memory.hugepages)
    return f"the guest is to have {memory.size >> 20} MiB: has the host as much?"
