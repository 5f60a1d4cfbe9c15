"""A definition and a host's facts become a device graph."""
