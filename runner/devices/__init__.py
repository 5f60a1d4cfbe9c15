"""Device models, one file each; a module's name is the device's ``kind``.

A device module offers (all but the first optional, and pure):

``claim(name, options) -> Claim``      what it asks for; the allocator gives it addresses
``build(node, at) -> Device``          how it behaves, for the ``kvm`` engine
``qemu(node) -> tuple[str, ...]``      the same device in words of QEMU's command line
``resolve(name, options, facts)``      options completed from the host's facts (a passed function)
``derive(machine, name, options)``     options completed from the names alone (a stable MAC)
``acpi(node) -> tuple[Term, ...]``     its AML objects (:mod:`runner.wire.aml`)
``lacks(engine, options)``             which keys an engine cannot follow, each with a verb

Conventions of these:

* ``resolve`` is called first, where a module has it, with the
  :class:`~runner.hostfacts.HostFacts` of the plan; ``claim`` then gets its result, which is
  also what ``node.options`` holds.  It raises a VmrunError when the host has not what is asked.

* ``claim`` gets the qualified name: ``"disks.root"`` for ``[disks.root]``, and ``"serial"``,
  ``"cmos_rtc"`` for what every PC has.  A backend is named by it (a second one of the same
  device with a suffix: ``"net.lan:vhost"``), and ``build`` reaches it by the name in
  ``node.claim.backends[i].name``, never by a name made up again.
* ``build`` returns an object with the attribute ``ranges``: one
  :class:`~runner.devices.ports.RegisterDevice` for each port range of ``node.claim.ports``,
  in that order, and then one for each region of ``node.claim.regions``.  A device with one
  range is its own: ``self.ranges = (self,)``.  BARs of a PCI function are no part of it:
  they move, and belong to :mod:`runner.bus.pci`.
* Where a narrow port range lies inside a wider one (0xcf9 in the PCI configuration ports
  0xcf8-0xcff), an access that fits wholly into the narrow one goes there, any other to the
  wide one, as the chipset decodes them.
* ``lacks`` gives pairs (key, verb) of what an engine that has the device as such cannot do of it,
  so that "the engine *cannot give* `disks.root.serial`" is a sentence: it is part of the one list of
  what engines refuse (:mod:`runner.graph.engines`).
* In ``qemu``'s words a character backend is ``chardev=NAME``, NAME being the backend's
  name; the engine declares the ``-chardev`` itself.

An engine refuses, by name and before the start, a device whose module lacks what that
engine needs.  Adding a device adds one file here and one fragment in ``schemas/devices``.
"""
