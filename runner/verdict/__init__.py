"""Why a run ended, and how to say it."""
