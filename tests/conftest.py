"""What every test may rely on."""

pytest_plugins = ["tests.lab.plugin"]
