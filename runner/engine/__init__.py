"""The graph becomes a running guest."""
