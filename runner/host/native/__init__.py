"""C, compiled against the system's headers; moves bytes and decides nothing."""
