"""Only the compiled part is said here; everything else stands in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["runner/host/native/build.py:ffibuilder"])
