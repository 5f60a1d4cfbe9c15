"""Boot protocols and ACPI tables: what a guest finds before its first instruction."""
