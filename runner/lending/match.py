"""Which PCI function a definition means: by path, by address, or by what it is.

An address moves when a card is added, so ``match`` chooses by identity; none or several
matches is a finding that lists what there is.  Pure: facts in, function out.
"""

from __future__ import annotations

from runner.definition.model import DeviceEntry, Json
from runner.hostfacts import HostFacts, PciFacts, is_address
from runner.lending.findings import Finding, Refused
from runner.typed import Iterable, Mapping, NamedTuple, Sequence

MATCH_KEYS = ("vendor", "device", "serial", "slot", "class")
_LISTED = 12


class Request(NamedTuple):
    """A function that a definition asks for, and what it allows."""

    name: str
    function: PciFacts
    bind: str = "auto"  # auto | never
    allow_no_reset: bool = False
    allow_unsafe_interrupts: bool = False


def matches(
    entries: Iterable[DeviceEntry], facts: HostFacts
) -> tuple[tuple[Request, ...], tuple[Finding, ...]]:
    """The entries that have a function each, and a finding for every other."""
    wanted: list[Request] = []
    failed: list[Finding] = []
    for entry in entries:
        function = _find(entry.name, entry.options, facts)
        if isinstance(function, Finding):
            failed.append(function)
        else:
            wanted.append(_request(entry.name, function, entry.options))
    return tuple(wanted), tuple(failed)


def _request(name: str, function: PciFacts, options: Mapping[str, Json]) -> Request:
    return Request(
        name=name,
        function=function,
        bind=str(options.get("bind") or "auto"),
        allow_no_reset=options.get("allow_no_reset") is True,
        allow_unsafe_interrupts=options.get("allow_unsafe_interrupts") is True,
    )


def resolve(name: str, options: Mapping[str, Json], facts: HostFacts) -> PciFacts:
    """The one function that ``path``, ``host`` or ``match`` means.  Raises Refused."""
    function = _find(name, options, facts)
    if isinstance(function, Finding):
        raise Refused([function])
    return function


def _find(name: str, options: Mapping[str, Json], facts: HostFacts) -> PciFacts | Finding:
    wanted = options.get("match")
    if isinstance(wanted, Mapping):
        words = ", ".join(f"{key} {wanted[key]}" for key in MATCH_KEYS if wanted.get(key) is not None)
        found = [one for one in facts.pci if _fits(one, wanted)]
    else:
        words = address_of(options)
        found = [one for one in facts.pci if one.address == words]
    if len(found) == 1:
        return found[0]
    if not found:
        there = [one for one in facts.pci if not one.is_bridge and not one.class_code.startswith("0600")]
        what = f"no PCI function of this host is {words or 'named'}; there is {listed(there)}"
        mend = _unseen(wanted, facts) or "vmrun host list shows every function"
        return Finding("no-match", name, what, mend)
    what = f"{len(found)} PCI functions of this host have {words}: {listed(found)}"
    return Finding("matches", name, what, 'choose one with host = "ADDRESS", or add serial or slot to match')


def _unseen(wanted: Json, facts: HostFacts) -> str:
    """Serial numbers lie where an ordinary user does not see them."""
    by_serial = isinstance(wanted, Mapping) and wanted.get("serial") is not None
    if by_serial and not all(one.capabilities_known for one in facts.pci):
        return "only root sees serial numbers: run as root, or choose by slot or host"
    return ""


def address_of(options: Mapping[str, Json]) -> str:
    """The full address in ``host`` or at the end of ``path``; what is written when it is none."""
    path = options.get("path")
    if isinstance(path, Mapping):
        path = path.get("resolved")
    text = str(options.get("host") or path or "").lower()
    last = text.rstrip("/").rpartition("/")[2]
    full = f"0000:{last}" if last.count(":") == 1 else last
    return full if is_address(full) else text


def listed(functions: Sequence[PciFacts]) -> str:
    """Functions in one clause, with ids and drivers, and what else they can be chosen by."""
    words = [", ".join((described(one), *marks(one))) for one in functions[:_LISTED]]
    if len(functions) > _LISTED:
        words.append(f"{len(functions) - _LISTED} more")
    return "; ".join(words) or "none at all"


def described(one: PciFacts) -> str:
    """ "0000:01:00.0 10ec:525a (rtsx_pci)" """
    return f"{one.address} {one.vendor}:{one.device} ({one.driver or 'no driver'})"


def marks(one: PciFacts) -> tuple[str, ...]:
    """What tells it from its twins: its serial number and its slot, as ``match`` takes them."""
    return tuple(f"{key} {value}" for key, value in (("serial", one.serial), ("slot", one.slot)) if value)


def _fits(one: PciFacts, wanted: Mapping[str, Json]) -> bool:
    """Every key that is given must fit; a class may be given by its first digits."""
    have = {"vendor": one.vendor, "device": one.device, "serial": one.serial, "slot": one.slot}
    for key in MATCH_KEYS:
        value = wanted.get(key)
        if value is None:
            continue
        text = str(value).lower()
        if key in ("vendor", "device", "class"):
            text = text.removeprefix("0x")
        if key == "class":
            if not one.class_code.startswith(text):
                return False
        elif have[key].lower() != text:
            return False
    return any(wanted.get(key) is not None for key in MATCH_KEYS)
