"""A TOML file becomes a checked, frozen definition."""
