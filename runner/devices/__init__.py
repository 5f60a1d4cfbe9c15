"""Device models, one file each; a module's name is the device's ``kind``.

A device module offers (all but the first optional, and pure):

``claim(name, options) -> Claim``      what it asks for; the allocator gives it addresses
``build(node, at) -> RegisterDevice``  how it behaves, for the ``kvm`` engine
``qemu(node) -> tuple[str, ...]``      the same device in words of QEMU's command line
``acpi(node) -> tuple[Term, ...]``     its AML objects (:mod:`runner.wire.aml`)

An engine refuses, by name and before the start, a device whose module lacks what that
engine needs.  Adding a device adds one file here and one fragment in ``schemas/devices``.
"""
