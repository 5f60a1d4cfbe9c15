"""C, compiled against the system's headers; what happens too often for Python."""
