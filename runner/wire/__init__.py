"""Byte layouts that the guest sees, and nothing else."""
