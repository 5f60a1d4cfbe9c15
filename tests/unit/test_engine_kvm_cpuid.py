"""The CPU a guest sees, for every topology that a definition may ask for, read as Linux reads it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import pytest
from hand_made_graph import machine

from runner.definition.model import Cpus
from runner.engine.kvm.cpuid import REGISTERS, guest_cpuid
from runner.errors import DefinitionError
from runner.firmware import acpi
from runner.graph import x86
from runner.graph.model import Vcpu
from runner.graph.x86 import CPU_FEATURES
from runner.host.kvm import CpuidEntry

ALL = 0xFFFFFFFF
HOSTS_OWN = 0x55


def vendor(name: bytes) -> CpuidEntry:
    ebx, edx, ecx = struct.unpack("<3I", name)
    return CpuidEntry(0, 0, 0, 0x1F, ebx, ecx, edx)


def shared_cache(leaf: int, number: int, level: int) -> CpuidEntry:
    """A cache with the host's own counts of whom it is shared with."""
    return CpuidEntry(leaf, number, 1, HOSTS_OWN << 14 | level << 5 | 1, 0x2C0003F, 0x3F, 0)


INTEL = [
    vendor(b"GenuineIntel"),
    CpuidEntry(1, 0, 0, 0x806F8, 0x0B100800, ALL & ~(1 << 31 | 1 << 24), ALL),
    *(shared_cache(4, number, level) for number, level in enumerate((1, 1, 2, 3))),
    CpuidEntry(4, 4, 1, 0, 0, 0, 0),
    CpuidEntry(6, 0, 0, 0x77, 2, 9, 0),
    CpuidEntry(7, 0, 1, 2, ALL, ALL, ALL),
    CpuidEntry(7, 1, 1, ALL, ALL, ALL, ALL),
    CpuidEntry(0xA, 0, 0, 0x8300805, 0, 0, 0x603),
    CpuidEntry(0xB, 0, 1, 0, 0, 0, 0),
    CpuidEntry(0x1F, 0, 1, 0, 0, 0, 0),
    CpuidEntry(0x80000001, 0, 0, 0, 0, 0x121, 0x2C100800),
    CpuidEntry(0x80000008, 0, 0, 0x3930, 0, 0, 0),
]
AMD = [
    vendor(b"AuthenticAMD"),
    CpuidEntry(1, 0, 0, 0xA00F11, 0x0B100800, ALL & ~(1 << 31 | 1 << 24), ALL),
    CpuidEntry(7, 0, 1, 0, ALL, ALL, ALL),
    CpuidEntry(0xB, 0, 1, 0, 0, 0, 0),
    CpuidEntry(0x80000001, 0, 0, 0xA00F11, 0, 0x75C237FF, 0x2FD3FBFF),
    CpuidEntry(0x80000008, 0, 0, 0x3030, 0, 0x700A, 0),
    CpuidEntry(0x8000000A, 0, 0, 1, 0x8000, 0, 0x1BCFF),
    *(shared_cache(0x8000001D, number, level) for number, level in enumerate((1, 1, 2, 3))),
    CpuidEntry(0x8000001D, 4, 1, 0, 0, 0, 0),
    CpuidEntry(0x8000001E, 0, 0, HOSTS_OWN, HOSTS_OWN, HOSTS_OWN, 0),
]


OFFERS = {"intel": INTEL, "amd": AMD}


def topologies() -> Iterator[tuple[Cpus, Vcpu]]:
    """Each way to 1 to 255 CPUs whose APIC ids fit, and the last CPU of it, which has the highest ids."""
    for total in range(1, 256):
        for threads in range(1, total + 1):
            for cores in range(1, total // threads + 1):
                sockets, rest = divmod(total, threads * cores)
                if rest:
                    continue
                cpus = Cpus(total, sockets, cores, threads)
                with suppress(DefinitionError):
                    yield cpus, x86.vcpus(cpus)[-1]


TOPOLOGIES = list(topologies())


@cache
def leaves(host: str, cpus: Cpus, vcpu: Vcpu) -> dict[tuple[int, int], CpuidEntry]:
    table = guest_cpuid(OFFERS[host], cpus, vcpu, tsc_deadline=True)
    found = {(entry.leaf, entry.subleaf): entry for entry in table}
    assert len(found) == len(table), "a leaf that is there twice"
    return found


def widths(cpus: Cpus) -> tuple[int, int]:
    """APIC ids of one core and of one package: whole powers of two (SDM volume 3, 8.9.1)."""
    core = 1 << (cpus.threads - 1).bit_length()
    return core, core << (cpus.cores - 1).bit_length()


def test_the_topologies_are_all_that_255_cpus_allow():
    every = {cpus for cpus, _ in TOPOLOGIES}
    assert {cpus.total for cpus in every} == set(range(1, 256))
    assert {Cpus(128, 1, 128, 1), Cpus(12, 2, 3, 2)} < every


@pytest.mark.parametrize("host", OFFERS)
def test_every_value_fits_the_register_that_it_is_for(host):
    for cpus, vcpu in TOPOLOGIES:
        for entry in leaves(host, cpus, vcpu).values():
            assert all(0 <= value <= ALL for value in entry), (cpus, entry)


@pytest.mark.parametrize("host", OFFERS)
def test_the_id_in_every_leaf_is_the_one_in_the_table_of_interrupt_controllers(host):
    for cpus in (Cpus(12, 2, 3, 2), Cpus(255, 255, 1, 1), Cpus(128, 1, 128, 1)):
        every = x86.vcpus(cpus)
        graph = machine()._replace(cpus=cpus, vcpus=every)
        listed = local_apics(acpi.tables(graph).data)
        assert listed == [vcpu.apic_id for vcpu in every]
        for vcpu, apic_id in zip(every, listed, strict=True):
            found = leaves(host, cpus, vcpu)
            assert found[1, 0].ebx >> 24 == apic_id
            told = [entry.edx for (leaf, _), entry in found.items() if leaf in (0xB, 0x1F)]
            assert set(told) == {apic_id}
            if host == "amd":
                assert found[0x8000001E, 0].eax == apic_id


def local_apics(image: bytes) -> list[int]:
    """The ids in the MADT (ACPI 6.4, 5.2.12.2: type 0, length 8)."""
    start = image.index(b"APIC")
    (length,) = struct.unpack_from("<I", image, start + 4)
    at, found = start + 44, []
    while at < start + length:
        kind, size = image[at], image[at + 1]
        if kind == 0:
            found.append(image[at + 3])
        at += size
    return found


@pytest.mark.parametrize("leaf", [0xB, 0x1F])
def test_shifting_an_id_as_the_extended_leaves_say_gives_core_and_package(leaf):
    for cpus, vcpu in TOPOLOGIES:
        found = leaves("intel", cpus, vcpu)
        threads, cores, end = (found[leaf, number] for number in range(3))
        assert [entry.ecx for entry in (threads, cores, end)] == [0x100, 0x201, 2]
        assert (threads.ebx, cores.ebx, end.ebx) == (cpus.threads, cpus.threads * cpus.cores, 0)
        assert vcpu.apic_id >> cores.eax == vcpu.socket
        assert (vcpu.apic_id >> threads.eax) & ((1 << (cores.eax - threads.eax)) - 1) == vcpu.core
        assert vcpu.apic_id & ((1 << threads.eax) - 1) == vcpu.thread


def test_leaf_1_tells_how_many_ids_a_package_has_as_far_as_eight_bits_go():
    for cpus, vcpu in TOPOLOGIES:
        found = leaves("intel", cpus, vcpu)[1, 0]
        _, package = widths(cpus)
        assert found.ebx >> 16 & 0xFF == min(package, 255)
        assert found.ebx & 0xFFFF == 0x0800
        assert found.edx >> 28 & 1 == (package > 1)
        assert found.ecx >> 31 == 1


def test_leaf_4_tells_who_shares_a_cache_and_of_64_cores_at_most():
    for cpus, vcpu in TOPOLOGIES:
        found = leaves("intel", cpus, vcpu)
        core, package = widths(cpus)
        for number, sharing in enumerate((core, core, core, package)):
            eax = found[4, number].eax
            assert (eax >> 14 & 0xFFF) + 1 == sharing
            assert (eax >> 26) + 1 == min(package // core, 64)
            assert eax & 0x3FFF == INTEL[2 + number].eax & 0x3FFF
        assert found[4, 4].eax == 0


def test_an_amd_cache_is_shared_by_ids_and_not_by_cpus():
    """Linux divides an APIC id by the count, so three cores of two threads are eight ids."""
    for cpus, vcpu in TOPOLOGIES:
        core, package = widths(cpus)
        found = leaves("amd", cpus, vcpu)
        ids = [(found[0x8000001D, number].eax >> 14 & 0xFFF) + 1 for number in range(4)]
        assert ids == [core, core, core, package]
        assert vcpu.apic_id // ids[3] == vcpu.socket
        assert all(not found[0x8000001D, number].eax >> 26 for number in range(4))


def test_amds_own_leaves_tell_the_same():
    for cpus, vcpu in TOPOLOGIES:
        _, package = widths(cpus)
        found = leaves("amd", cpus, vcpu)
        ecx, extended = found[0x80000008, 0].ecx, found[0x8000001E, 0]
        assert (ecx & 0xFF) + 1 == cpus.cores * cpus.threads
        assert 1 << (ecx >> 12 & 0xF) == package
        assert extended.ebx == vcpu.core | (cpus.threads - 1) << 8
        assert extended.ecx == vcpu.socket


@pytest.mark.parametrize(
    ("host", "cpus", "bit"),
    [("amd", Cpus(2, 1, 2, 1), 1), ("amd", Cpus(2, 2, 1, 1), 0), ("intel", Cpus(2, 1, 2, 1), 0)],
)
def test_cmp_legacy_is_amds_word_for_several_cores(host, cpus, bit):
    """Linux believes nothing that leaf 1 says of threads where it is set."""
    assert leaves(host, cpus, x86.vcpus(cpus)[0])[0x80000001, 0].ecx >> 1 & 1 == bit


def cpu(*features: str, offer: list[CpuidEntry] = AMD, tsc_deadline: bool = True):
    cpus = Cpus(features=features)
    table = guest_cpuid(offer, cpus, x86.vcpus(cpus)[0], tsc_deadline=tsc_deadline)
    return {(entry.leaf, entry.subleaf): entry for entry in table}


def has(found, name: str) -> bool:
    leaf, field, bit = CPU_FEATURES[name]
    register = REGISTERS[field]
    return bool(found[leaf, 0][register] >> bit & 1)


@pytest.mark.parametrize("name", sorted(CPU_FEATURES))
def test_each_feature_can_be_switched_off_and_on_and_nothing_else_changes(name):
    """``svm`` brings its own leaf with it."""
    off, on = cpu(f"-{name}"), cpu(f"+{name}")
    assert (has(off, name), has(on, name)) == (False, True)
    leaf, field, bit = CPU_FEATURES[name]
    register = REGISTERS[field]
    same = [key for key in off if off[key] == on[key]]
    assert set(off) - set(same) == {(leaf, 0)} | ({(0x8000000A, 0)} if name == "svm" else set())
    assert off[leaf, 0][register] ^ on[leaf, 0][register] == 1 << bit


def test_what_nobody_emulates_is_not_offered_unless_it_is_asked_for():
    assert not has(cpu(), "svm")
    assert not has(cpu(), "vmx")
    assert cpu(offer=INTEL)[0xA, 0].eax == 0
    assert cpu(offer=INTEL)[6, 0] == CpuidEntry(6, 0, 0, 4, 0, 0, 0)


def test_nested_svm_has_the_leaf_that_says_what_it_can():
    """AMD APM volume 3, E.4.9: revision, ASIDs and features; without them a hypervisor does not start."""
    assert cpu("+svm")[0x8000000A, 0] == AMD[6]
    assert cpu()[0x8000000A, 0][3:] == (0, 0, 0, 0)
    assert cpu("-svm")[0x8000000A, 0][3:] == (0, 0, 0, 0)


def test_the_deadline_timer_is_there_where_kvm_has_it_and_nobody_is_against_it():
    assert has(cpu(), "tsc_deadline_timer")
    assert not has(cpu(tsc_deadline=False), "tsc_deadline_timer")
    assert not has(cpu("-tsc_deadline_timer"), "tsc_deadline_timer")
    with pytest.raises(DefinitionError, match="does not offer `tsc_deadline_timer`"):
        cpu("+tsc_deadline_timer", tsc_deadline=False)


def test_a_feature_that_kvm_does_not_offer_is_refused():
    without = [entry for entry in AMD if entry.leaf != 7]
    bare = [entry._replace(ecx=0) if entry.leaf == 0x80000001 else entry for entry in AMD]
    for name, offer in (("svm", bare), ("avx2", without), ("svm", AMD[:2])):
        with pytest.raises(DefinitionError, match=f"does not offer `{name}`"):
            cpu(f"+{name}", offer=offer)
    assert not has(cpu("-svm", offer=bare), "svm")


def test_the_name_of_the_hosts_cpu_is_put_in_where_kvm_leaves_it_out():
    offer = [*AMD, CpuidEntry(0x80000002, 0, 0, 0, 0, 0, 0)]
    table = guest_cpuid(offer, Cpus(), x86.vcpus(Cpus())[0], tsc_deadline=True, brand=((1, 2, 3, 4),))
    assert CpuidEntry(0x80000002, 0, 0, 1, 2, 3, 4) in table
