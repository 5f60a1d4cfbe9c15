"""Host ends of guest devices: files, taps, terminals, sockets."""
