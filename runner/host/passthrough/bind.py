"""Changing the driver of one function, by its address and nothing else.

``driver_override``, then ``unbind``, then ``drivers_probe``: ``new_id`` would take every
function of the same kind, and fails the second time.  Each step is looked at afterwards.
(Documentation/ABI/testing/sysfs-bus-pci, Documentation/driver-api/vfio.rst)
"""

from __future__ import annotations

import errno

from runner.errors import HostIoError
from runner.host.passthrough.journal import Binding
from runner.host.sysfs import Sysfs, link_or, text_or
from runner.lending.findings import VFIO_DRIVER
from runner.typed import NamedTuple

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
PROBE = "/sys/bus/pci/drivers_probe"


def binding_of(sysfs: Sysfs, address: str) -> Binding:
    """Driver, override and group of a function now."""
    at = f"{DEVICES}/{address}"
    group = link_or(sysfs, f"{at}/iommu_group")
    override = text_or(sysfs, f"{at}/driver_override").replace("(null)", "")
    return Binding(address, link_or(sysfs, f"{at}/driver"), override, int(group) if group.isdigit() else None)


def take(sysfs: Sysfs, address: str) -> None:
    """Bring a function to vfio-pci.  Raises HostIoError; what was done until then is the journal's."""
    at = f"{DEVICES}/{address}"
    if not sysfs.exists(at):
        raise HostIoError(f"{address} is not there any more", hint="was it unplugged? vmrun host list")
    now = binding_of(sysfs, address)
    if now.driver == VFIO_DRIVER:
        return
    _write(sysfs, f"{at}/driver_override", VFIO_DRIVER, f"{address} cannot be reserved for {VFIO_DRIVER}")
    if now.driver:
        _write(sysfs, f"{at}/driver/unbind", address, f"{now.driver} does not let go of {address}")
    _write(sysfs, PROBE, address, f"{VFIO_DRIVER} does not take {address}")
    after = link_or(sysfs, f"{at}/driver")
    if after != VFIO_DRIVER:
        raise HostIoError(
            f"after the probe {address} is on {after or 'no driver'} and not on {VFIO_DRIVER}",
            hint="dmesg says why vfio-pci refused it; is the module vfio_pci loaded?",
        )


class Back(NamedTuple):
    """What became of a function: ``complaint`` "" when it is as it was, ``note`` what else went wrong."""

    complaint: str = ""
    note: str = ""


def give_back(sysfs: Sysfs, was: Binding) -> Back:
    """Bring a function back to how it was.

    Can be called again after having been killed anywhere.  A driver or override that is
    neither what was nor ours is somebody else's later decision, and stays.
    """
    there = f"{DEVICES}/{was.address}"
    try:
        back = _give_back(sysfs, was) if sysfs.exists(there) else Back()
    except OSError as error:
        on = binding_of(sysfs, was.address).driver
        undone = f"could not be taken from {on}" if on == VFIO_DRIVER else "keeps a driver_override of ours"
        back = Back(f"{was.address} {undone}: {error.strerror}")
    return back if sysfs.exists(there) else Back()  # of one that was unplugged nothing is left to give back


def _give_back(sysfs: Sysfs, was: Binding) -> Back:
    """A driver takes a function back only while the override names it, or there is none and it knows the
    function (pci_match_device), so its name is the override until then.  Raises OSError.
    """
    complaint = note = ""
    now = binding_of(sysfs, was.address)
    if now.driver == VFIO_DRIVER != was.driver:
        note = _reset(sysfs, f"{DEVICES}/{was.address}")
        _override(sysfs, was, was.driver or was.override)
        now = _unbind(sysfs, was.address)
    if was.driver and not now.driver:
        complaint = _rebind(sysfs, was)
    _override(sysfs, was, was.override)
    return Back(complaint, note)


def _override(sysfs: Sysfs, was: Binding, text: str) -> None:
    """Write an override over what was or one of ours, and over nobody else's.  Raises OSError."""
    now = binding_of(sysfs, was.address).override
    if now != text and now in (VFIO_DRIVER, was.driver, was.override):
        sysfs.write(f"{DEVICES}/{was.address}/driver_override", text or "\n")


def _unbind(sysfs: Sysfs, address: str) -> Binding:
    """Away from vfio-pci; somebody who did the same at this moment is no error.  Raises OSError."""
    try:
        sysfs.write(f"{DEVICES}/{address}/driver/unbind", address)
    except OSError:
        if binding_of(sysfs, address).driver == VFIO_DRIVER:
            raise
    return binding_of(sysfs, address)


def release(sysfs: Sysfs, address: str) -> Back:
    """Away from vfio-pci, and to whatever driver wants it."""
    at = f"{DEVICES}/{address}"
    try:
        note = _reset(sysfs, at)
        sysfs.write(f"{at}/driver_override", "\n")
        _unbind(sysfs, address)
        sysfs.write(PROBE, address)
    except OSError as error:
        return Back(f"{address} does not leave {VFIO_DRIVER}: {error.strerror}")
    return Back(note=note)


def _rebind(sysfs: Sysfs, was: Binding) -> str:
    driver = f"{DRIVERS}/{was.driver}"
    if not sysfs.exists(driver):
        return f"{was.address} was on {was.driver}, which is no longer loaded: modprobe {was.driver}"
    _override(sysfs, was, was.driver)
    try:
        sysfs.write(f"{driver}/bind", was.address)
    except OSError as error:
        now = binding_of(sysfs, was.address)
        if now.driver != was.driver:
            return f"{was.driver} does not take {was.address} back: {_refusal(error, now, was)}"
    return ""


def _refusal(error: OSError, now: Binding, was: Binding) -> str:
    """Why a driver that is asked does not bind; ENODEV is no match or no interest, which nobody logs."""
    if now.override not in ("", was.driver):
        return f"somebody else has reserved it for {now.override} (driver_override)"
    return f"{error.strerror}{'' if error.errno == errno.ENODEV else ' (dmesg says more)'}"


def _reset(sysfs: Sysfs, at: str) -> str:
    """No trace of the guest for the host's driver; "" or what went wrong.  Whether there is a reset at all,
    preflight has said.  vfio-pci has tried one as well when its last user closed.
    """
    try:
        if sysfs.exists(f"{at}/reset"):
            sysfs.write(f"{at}/reset", "1")
    except OSError as error:
        return f"its reset failed: {error.strerror}"
    return ""


def _write(sysfs: Sysfs, path: str, text: str, failed: str) -> None:
    try:
        sysfs.write(path, text)
    except OSError as error:
        raise HostIoError(f"{failed}: {error.strerror} ({path})", hint="dmesg may say more") from error
