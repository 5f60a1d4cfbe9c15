"""Other tools' command lines, read as definitions and written from plans; pure, like the definition."""
