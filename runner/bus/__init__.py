"""What sits between a CPU's access and a device: ports, MMIO, PCI, MSI-X, virtqueues."""
