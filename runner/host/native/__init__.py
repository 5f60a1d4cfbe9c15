"""C, compiled against the system's headers: what happens too often for Python, or has no call there."""
