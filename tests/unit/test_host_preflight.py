"""Every refusal of passthrough on made-up facts: one message each, which says what to do, and no write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from runner.definition.model import DeviceEntry
from runner.errors import HostError, HostPermissionError
from runner.host.passthrough import transaction
from runner.host.passthrough.host import Host
from runner.hostfacts import HostFacts, KvmFacts, PciFacts
from runner.lending.candidates import candidates
from runner.lending.findings import Refused, refuse
from runner.lending.match import Request, matches
from runner.lending.preflight import changes, judged, preflight
from tests.unit.driver_core import DriverCore

READER = PciFacts(
    address="0000:01:00.0",
    vendor="10ec",
    device="525a",
    class_code="ff0000",
    driver="rtsx_pci",
    iommu_group=7,
    reset_methods=("flr", "bus"),
    msi_vectors=1,
    parent="0000:00:1c.0",
)
PORT = PciFacts(
    "0000:00:1c.0", "8086", "9d10", class_code="060400", driver="pcieport", iommu_group=7, is_bridge=True
)
AUDIO = PciFacts("0000:01:00.1", "10ec", "0001", class_code="040300", driver="snd_hda_intel", iommu_group=7)
GOOD = HostFacts(
    iommu=True,
    interrupt_remapping=True,
    modules=("vfio", "vfio_iommu_type1", "vfio_pci"),
    devices=("/dev/vfio/vfio", "/dev/vfio/7"),
    dma_entry_limit=65535,
    iova_bits=39,
    open_files=1024,
    cpu_vendor="intel",
    kvm=KvmFacts(usable=True, capabilities=(("KVM_CAP_IRQ_ROUTING", 4096),)),
    pci=(PORT, READER),
)
RAM = ((0, 512 << 20),)
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Case(NamedTuple):
    """``change`` spoils one thing of the good host; ``says`` and ``mends`` are parts of the message."""

    rule: str
    says: str
    mends: str
    host: Mapping[str, Any] = NOTHING
    reader: Mapping[str, Any] = NOTHING
    others: tuple[PciFacts, ...] = ()
    options: Mapping[str, Any] = NOTHING
    ram: tuple[tuple[int, int], ...] = RAM


CASES = (
    Case("iommu-off", "IOMMU is off or missing", "intel_iommu=on", {"iommu": False}),
    Case("iommu-off", "IOMMU is off or missing", "AMD-Vi", {"iommu": False, "cpu_vendor": "amd"}),
    Case("module-vfio_pci", "vfio_pci is not loaded", "modprobe vfio_pci",
         {"modules": ("vfio", "vfio_iommu_type1")}),
    Case("module-vfio_iommu_type1", "vfio_iommu_type1 is not loaded", "modprobe vfio_iommu_type1",
         {"modules": ("vfio", "vfio_pci")}),
    Case("vfio-node", "/dev/vfio/vfio", "chmod 0666 /dev/vfio/vfio", {"devices": ()}),
    Case("acs-override", "pcie_acs_override", "without pcie_acs_override", {"acs_override": True}),
    Case("memlock", "512 MiB, and this user may lock 8 MiB", "ulimit -l 524288", {"memlock": 8 << 20}),
    Case("dma-entries", "VFIO maps 1 (dma_entry_limit)", "dma_entry_limit=65535", {"dma_entry_limit": 1},
         ram=((0, 3 << 30), (4 << 30, 1 << 30))),
    Case("iova-width", "ends at 0x8100000000, beyond the IOMMU's 39 address bits", "less memory",
         ram=((0, 3 << 30), (4 << 30, 512 << 30))),
    Case("vectors", "KVM routes 60", "fewer devices",
         {"kvm": KvmFacts(capabilities=(("KVM_CAP_IRQ_ROUTING", 100),))}, {"msix_vectors": 64}),
    Case("open-files", "2048 interrupt vectors", "ulimit -n 4160", reader={"msix_vectors": 2048}),
    Case("host-bridge", "is a host bridge", "choose another", reader={"class_code": "060000"}),
    Case("host-bridge", "bridge of the chipset", "choose another", reader={"class_code": "060100"}),
    Case("bridge", "is a bridge", "below it", reader={"class_code": "060400", "is_bridge": True}),
    Case("boot-display", "display that the host booted on", "firmware", reader={"boot_vga": True}),
    Case("in-use", "mount /, swap", "umount", reader={"uses": ("mount /", "swap")}),
    Case("in-use", "LUKS cryptroot", "cryptsetup close", reader={"uses": ("LUKS cryptroot",)}),
    Case("in-use", "default route (eth0)", "ip route", reader={"uses": ("default route (eth0)",)}),
    Case("pf-with-vfs", "4 virtual functions", "echo 0 > /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs",
         reader={"vfs": 4}),
    Case("group-member", "shares IOMMU group 7 with 0000:01:00.1 10ec:0001 (snd_hda_intel)",
         "vmrun host bind 0000:01:00.1", others=(AUDIO,)),
    Case("group-member", "on which the host lives (mount /)", "another slot",
         others=(AUDIO._replace(uses=("mount /",)),)),
    Case("group-member", "shares IOMMU group 7 with 0000:00:1b.0 8086:0001 (shpchp)",
         "echo 0000:00:1b.0 > /sys/bus/pci/drivers/shpchp/unbind",
         others=(PORT._replace(address="0000:00:1b.0", device="0001", driver="shpchp", uses=("mount /",)),)),
    Case("no-group", "in no IOMMU group", "vmrun host list", reader={"iommu_group": None}),
    Case("no-reset", "offers no reset", "allow_no_reset = true", reader={"reset_methods": ()}),
    Case("bus-reset", "also hits 0000:01:00.1", "allow_no_reset = true", reader={"reset_methods": ("bus",)},
         others=(AUDIO._replace(iommu_group=8, parent=PORT.address),)),
    Case("unsafe-interrupts", "could send the host any interrupt", "allow_unsafe_interrupts = true",
         {"interrupt_remapping": False}),
    Case("unsafe-interrupts-switch", "switch for them is off", "echo Y > /sys/module/vfio_iommu_type1/",
         {"interrupt_remapping": False}, options={"allow_unsafe_interrupts": True}),
    Case("permission", "only root may take 0000:01:00.0 from rtsx_pci", "sudo vmrun host bind 0000:01:00.0",
         {"euid": 1000}),
    Case("permission", "may not open /dev/vfio/7", "chown $USER /dev/vfio/7",
         {"euid": 1000, "devices": ("/dev/vfio/vfio",)}, {"driver": "vfio-pci"}),
    Case("not-bound", 'the definition says bind = "never"', "vmrun host bind 0000:01:00.0",
         options={"bind": "never"}),
    Case("rmrr", "firmware keeps 0xd9800000-0xdfffffff", "firmware",
         reader={"reserved": ((0xD9800000, 0xDFFFFFFF, "direct"),)}),
    Case("reserved", "covers 0x10000000-0x1fffffff", "less memory",
         reader={"reserved": ((0x10000000, 0x1FFFFFFF, "reserved"),)}),
)  # fmt: skip


def facts_of(case: Case) -> HostFacts:
    pci = (PORT, READER._replace(**case.reader), *case.others)
    return GOOD._replace(pci=pci)._replace(**case.host)


def requests(entries: Sequence[DeviceEntry], facts: HostFacts) -> tuple[Request, ...]:
    """The functions that all entries mean.  Raises Refused where one has none."""
    wanted, failed = matches(entries, facts)
    refuse(failed)
    return wanted


def entry(name: str = "reader", **options: Any) -> DeviceEntry:
    return DeviceEntry("devices", name, "vfio", {"host": READER.address, **options})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}-{case.says[:20]}")
def test_refused_with_one_message_and_no_write(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thing wrong is one finding, that names it and says what to do; no file of the host is written."""
    facts = facts_of(case)
    core = DriverCore(tmp_path / "host")
    (tmp_path / "host").mkdir()
    monkeypatch.setattr(transaction, "pci_facts", lambda sysfs: facts.pci)
    host = Host(core, str(tmp_path / "state"), lambda group: "", lambda node: "")
    with pytest.raises(Refused) as refused:
        transaction.prepare([entry(**case.options)], facts, case.ram, vm="x", host=host)
    assert [one.rule for one in refused.value.findings] == [case.rule]
    assert case.says in str(refused.value)
    assert case.mends in refused.value.hint
    assert core.writes == []


def test_a_good_host_has_no_finding() -> None:
    """The host that every case spoils is one that lends."""
    assert preflight(requests([entry()], GOOD), GOOD, RAM) == ()


def test_all_findings_at_once() -> None:
    """A host with four faults says four things, each with its way out."""
    facts = GOOD._replace(memlock=1 << 20, modules=("vfio", "vfio_iommu_type1"), interrupt_remapping=False)
    facts = facts._replace(pci=(READER._replace(reset_methods=()),))
    found = preflight(requests([entry()], facts), facts, RAM)
    assert {one.rule for one in found} == {"memlock", "module-vfio_pci", "unsafe-interrupts", "no-reset"}
    words = str(Refused(found))
    assert words.startswith("4 things stand against")
    assert all(one.what in words and one.mend in words for one in found)


def test_only_rights_missing_is_a_permission_error() -> None:
    """Status 77 tells a script that sudo would help."""
    facts = GOOD._replace(euid=1000)
    with pytest.raises(HostPermissionError):
        refuse(preflight(requests([entry()], facts), facts, RAM))


@pytest.mark.parametrize(
    "change",
    [
        lambda reader: reader._replace(reset_methods=()),
        lambda reader: reader._replace(reset_methods=("bus",)),
    ],
)
def test_allow_no_reset_allows(change: Callable[[PciFacts], PciFacts]) -> None:
    """A definition that opts in is taken at its word."""
    facts = GOOD._replace(pci=(change(READER), AUDIO._replace(iommu_group=8)))
    assert preflight(requests([entry(allow_no_reset=True)], facts), facts, RAM) == ()


def test_allow_unsafe_interrupts_allows_where_the_switch_is_on() -> None:
    """The definition's word and the host's switch are both needed, and enough."""
    facts = GOOD._replace(interrupt_remapping=False, unsafe_interrupts=True)
    assert preflight(requests([entry(allow_unsafe_interrupts=True)], facts), facts, RAM) == ()
    assert preflight(requests([entry()], facts), facts, RAM)[0].rule == "unsafe-interrupts"


def test_a_whole_group_given_to_one_machine_is_fine() -> None:
    """Every member is requested, and the bridge among them is exempt."""
    facts = GOOD._replace(pci=(PORT, READER, AUDIO._replace(reset_methods=("flr",))))
    entries = [entry(), DeviceEntry("devices", "audio", "vfio", {"host": AUDIO.address})]
    assert preflight(requests(entries, facts), facts, RAM) == ()


def test_whole_bus_without_a_reset_of_each_is_fine() -> None:
    """Two functions of a card that cannot be reset alone: together they are the bus, which can be."""
    one, other = (each._replace(reset_methods=(), parent=PORT.address) for each in (READER, AUDIO))
    facts = GOOD._replace(pci=(PORT, one, other))
    both = [entry(), DeviceEntry("devices", "audio", "vfio", {"host": AUDIO.address})]
    assert preflight(requests(both, facts), facts, RAM) == ()
    alone = preflight(requests([entry()], facts), facts, RAM)
    assert [found.rule for found in alone] == ["group-member", "no-reset"]
    assert "would also hit 0000:01:00.1" in alone[1].what


def test_members_without_a_driver_are_fine() -> None:
    """An unbound member, or one on vfio-pci or a variant of it, does no DMA for the host."""
    for driver in ("", "vfio-pci", "pci-stub", "mlx5_vfio_pci", "nvgrace-gpu-vfio-pci"):
        facts = GOOD._replace(pci=(READER, AUDIO._replace(driver=driver)))
        assert preflight(requests([entry()], facts), facts, RAM) == ()


@pytest.mark.parametrize("driver", ["", "pcieport"])
def test_a_bridge_in_the_group_is_exempt(driver: str) -> None:
    """It does no DMA of its own, and vfio-pci would not take it."""
    facts = GOOD._replace(pci=(PORT._replace(driver=driver), READER))
    assert preflight(requests([entry()], facts), facts, RAM) == ()


def test_the_same_function_twice_is_refused() -> None:
    """Two names for one function: the second is told of the first."""
    entries = [entry(), entry("again")]
    found = preflight(requests(entries, GOOD), GOOD, RAM)
    assert [(one.rule, one.device) for one in found] == [("twice", "again")]
    assert "devices.reader already" in found[0].what


def test_memory_that_fits_its_limits_is_fine() -> None:
    """The limits are inclusive: exactly as much as may be locked, exactly up to the last address."""
    facts = GOOD._replace(memlock=512 << 20, iova_bits=29)
    assert preflight(requests([entry()], facts), facts, RAM) == ()


def test_reserved_regions_outside_ram_and_relaxable_ones_are_fine() -> None:
    """The MSI window lies in the hole, and a relaxable region binds nobody."""
    kept = ((0xFEE00000, 0xFEEFFFFF, "msi"), (0, 0xFFFFFF, "direct-relaxable"))
    facts = GOOD._replace(pci=(READER._replace(reserved=kept),))
    assert preflight(requests([entry()], facts), facts, RAM) == ()


def test_changes_say_what_a_run_would_do() -> None:
    """The plan shows drivers that are to go; nothing for a function that is on vfio-pci already."""
    assert changes(requests([entry()], GOOD)) == ("0000:01:00.0: rtsx_pci -> vfio-pci, and back at the end",)
    bound = GOOD._replace(pci=(READER._replace(driver="vfio-pci"),))
    assert changes(requests([entry()], bound)) == ()


def test_candidates_separate_the_host_from_the_function() -> None:
    """What stands against everything is said once, and not again for each function."""
    facts = GOOD._replace(
        iommu=False, pci=(PORT, READER, READER._replace(address="0000:02:00.0", boot_vga=True))
    )
    rows, common = candidates(facts)
    assert [one.rule for one in common] == ["iommu-off"]
    assert [[one.rule for one in found] for _, found in rows] == [
        ["bridge"],
        ["group-member"],
        ["boot-display", "group-member"],
    ]


# --- choosing


def chosen(options: dict[str, Any], facts: HostFacts = GOOD) -> str:
    entries = [DeviceEntry("devices", "reader", "vfio", options)]
    return requests(entries, facts)[0].function.address


@pytest.mark.parametrize(
    "options",
    [
        {"host": "0000:01:00.0"},
        {"host": "01:00.0"},
        {"path": "/sys/bus/pci/devices/0000:01:00.0/"},
        {"path": {"text": "x", "resolved": "/sys/devices/pci0000:00/0000:00:1c.0/0000:01:00.0"}},
        {"match": {"vendor": "10EC", "device": "0x525a"}},
        {"match": {"class": "ff"}},
        {"match": {"vendor": "10ec", "class": "0xff0000"}},
    ],
)
def test_one_function_in_many_words(options: dict[str, Any]) -> None:
    """By address, by path, and by what it is."""
    assert chosen(options) == READER.address


def test_serial_and_slot_choose_among_twins() -> None:
    """Two equal cards are told apart by serial number or by slot."""
    twin = READER._replace(address="0000:02:00.0", serial="00-00-00-ff-ff-00-00-01", slot="3")
    facts = GOOD._replace(pci=(READER, twin))
    assert chosen({"match": {"serial": "00-00-00-FF-FF-00-00-01"}}, facts) == twin.address
    assert chosen({"match": {"vendor": "10ec", "slot": "3"}}, facts) == twin.address


def test_serial_number_that_this_user_cannot_see() -> None:
    """It may be there: the error does not call it a wrong number only."""
    facts = GOOD._replace(pci=(READER._replace(capabilities_known=False),))
    for wanted, hint in (
        ({"serial": "1"}, "only root sees serial numbers"),
        ({"slot": "3"}, "vmrun host list"),
    ):
        with pytest.raises(HostError) as error:
            chosen({"match": wanted}, facts)
        assert error.value.hint.startswith(hint)


def test_several_matches_are_listed() -> None:
    """Nobody guesses: all of them are named, and how to choose."""
    facts = GOOD._replace(pci=(READER, READER._replace(address="0000:02:00.0")))
    with pytest.raises(HostError, match=r"2 PCI functions .* 0000:01:00.0 .*; 0000:02:00.0 ") as error:
        chosen({"match": {"vendor": "10ec"}}, facts)
    assert "serial or slot" in error.value.hint


def test_no_match_lists_what_there_is() -> None:
    """The list leaves bridges out, which nobody means."""
    with pytest.raises(
        HostError, match=r"no PCI function of this host is vendor 1234; there is 0000:01:00.0"
    ):
        chosen({"match": {"vendor": "1234", "device": None}})


def test_an_empty_match_matches_nothing() -> None:
    """A table without keys is not every device."""
    with pytest.raises(HostError, match="no PCI function"):
        chosen({"match": {}})


def test_every_entry_without_a_match_is_told_with_all_that_the_host_lacks() -> None:
    """A missing device is one finding more, beside those about the host and the devices that are there."""
    entries = [
        *(DeviceEntry("devices", name, "vfio", {"host": "09:00.0"}) for name in ("a", "b")),
        DeviceEntry("devices", "many", "vfio", {"match": {"class": "04"}}),
        entry(),
    ]
    twins = (AUDIO._replace(address="0000:02:00.0", iommu_group=8),) * 2
    facts = GOOD._replace(iommu=False, memlock=1, pci=(PORT, READER._replace(boot_vga=True), *twins))
    wanted, found = judged(entries, facts, RAM)
    assert [one.name for one in wanted] == ["reader"]
    assert [(one.rule, one.device) for one in found] == [
        ("no-match", "a"), ("no-match", "b"), ("matches", "many"), ("iommu-off", ""), ("memlock", ""),
        ("boot-display", "reader"),
    ]  # fmt: skip


def test_the_list_shows_what_else_a_function_can_be_chosen_by() -> None:
    """The serial number and the slot, in the words of ``match``."""
    twin = READER._replace(address="0000:02:00.0", serial="00-00-00-ff-ff-00-00-01", slot="3")
    with pytest.raises(HostError) as error:
        chosen({"match": {"vendor": "10ec"}}, GOOD._replace(pci=(READER, twin)))
    assert str(error.value).endswith(
        "0000:01:00.0 10ec:525a (rtsx_pci); "
        "0000:02:00.0 10ec:525a (rtsx_pci), serial 00-00-00-ff-ff-00-00-01, slot 3"
    )
