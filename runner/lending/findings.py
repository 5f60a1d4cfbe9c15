"""What stands against lending a function, and how it is said."""

from __future__ import annotations

from runner.errors import HostError, HostPermissionError
from runner.typed import NamedTuple, Sequence

VFIO_DRIVER = "vfio-pci"


class Finding(NamedTuple):
    """One reason not to start.  ``device`` is the definition's name, "" for the whole machine."""

    rule: str
    device: str
    what: str
    mend: str

    def words(self) -> str:
        """One clause, after the device that it is about."""
        return f"devices.{self.device}: {self.what}" if self.device else self.what


class Refused(HostError):
    """Preflight found something; all of it is carried, and no driver was changed."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        if len(findings) == 1:
            super().__init__(findings[0].words(), hint=findings[0].mend)
            return
        lines = "".join(f"\n  - {one.words()}\n    {one.mend}" for one in findings)
        super().__init__(f"{len(findings)} things stand against passing devices through:{lines}")


class RefusedPermission(Refused, HostPermissionError):
    """The host could, this user may not."""


def refuse(findings: Sequence[Finding]) -> None:
    """Raise Refused when there is anything to refuse for."""
    if findings:
        rights_only = all(one.rule == "permission" for one in findings)
        raise RefusedPermission(findings) if rights_only else Refused(findings)
