"""vmrun: boot a virtual machine that a TOML file describes."""

__version__ = "0.1.0"
