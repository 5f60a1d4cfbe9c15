"""Settings of all pure tests."""

from __future__ import annotations

from hypothesis import settings

# On a busy machine one example may take any time; what a test costs is pytest-timeout's matter.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
