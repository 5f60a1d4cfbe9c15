"""Only the compiled part is said here; everything else stands in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["runner/host/native/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},  # cffi keeps to the stable ABI: one wheel for all
)
