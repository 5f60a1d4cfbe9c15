"""Kernels, initramfs images and the cache that keeps them by content."""
