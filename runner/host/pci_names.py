"""Names of PCI functions for people, out of the pci.ids file of the distribution.

Read when somebody wants to see names, never on the way to a running machine.
"""

from __future__ import annotations

from runner.host.sysfs import Sysfs, text_or
from runner.hostfacts import PciFacts

FILES = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids")

# PCI Code and ID Assignment 1.11, base classes: enough to know a function by without the file
BASE_CLASSES = {
    "00": "Unclassified device",
    "01": "Mass storage controller",
    "02": "Network controller",
    "03": "Display controller",
    "04": "Multimedia controller",
    "05": "Memory controller",
    "06": "Bridge",
    "07": "Communication controller",
    "08": "Generic system peripheral",
    "09": "Input device controller",
    "0a": "Docking station",
    "0b": "Processor",
    "0c": "Serial bus controller",
    "0d": "Wireless controller",
    "10": "Encryption controller",
    "11": "Signal processing controller",
    "12": "Processing accelerator",
    "13": "Non-essential instrumentation",
    "40": "Coprocessor",
    "ff": "Unassigned class",
}


class PciNames:
    """Looks names up in the text of pci.ids; "" for what it does not have."""

    def __init__(self, text: str) -> None:
        self._text = "\n" + text

    @property
    def known(self) -> bool:
        """Whether there is such a file here at all."""
        return self._text != "\n"

    def vendor(self, vendor: str) -> str:
        return self._heading(f"\n{vendor}  ")

    def device(self, vendor: str, device: str) -> str:
        return self._below(f"\n{vendor}  ", device)

    def kind(self, class_code: str) -> str:
        """The subclass where it has a name, else the class."""
        heading = f"\nC {class_code[:2]}  "
        named = self._below(heading, class_code[2:4]) or self._heading(heading)
        return named or BASE_CLASSES.get(class_code[:2], f"Class {class_code[:4]}")

    def of(self, function: PciFacts) -> str:
        """One line: "Realtek Semiconductor Co., Ltd. RTS525A PCI Express Card Reader"."""
        vendor = self.vendor(function.vendor) or f"Vendor {function.vendor}"
        return f"{vendor} {self.device(function.vendor, function.device) or f'device {function.device}'}"

    def _heading(self, start: str) -> str:
        at = self._text.find(start)
        return "" if at < 0 else self._text[at + len(start) :].partition("\n")[0].strip()

    def _below(self, start: str, key: str) -> str:
        """The entry of one tab below a heading; the section ends at the next line without one."""
        at = self._text.find(start)
        if at < 0:
            return ""
        for line in self._text[at + 1 : at + 200_000].split("\n")[1:]:
            if line.startswith(f"\t{key}  "):
                return line.strip()[len(key) :].strip()
            if line and line[0] not in "\t#":
                return ""
        return ""


def pci_names(sysfs: Sysfs) -> PciNames:
    """From the first file that is there; without one only classes have names."""
    return PciNames(next((text for path in FILES if (text := text_or(sysfs, path))), ""))
