"""What commands say on standard error: one voice for the process, set up by the frame.

``tell(level, words, **fields)`` with the levels debug, info, notice, warning and error.  The
human form is written directly; the JSON form is structlog's, imported with the first line.
"""

from __future__ import annotations

from runner.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.cli.narrator import Narrator
    from runner.definition.model import Json

_settings = {"verbose": False, "quiet": False, "form": "human"}
_voice: list[Narrator] = []


def configure(*, verbose: int = 0, quiet: bool = False, form: str = "human") -> None:
    """How much is said and in which form; costs nothing until something is said."""
    _settings.update(verbose=verbose > 0, quiet=quiet, form=form)
    _voice.clear()


def is_verbose() -> bool:
    """Whether ``-v`` was given."""
    return bool(_settings["verbose"])


def is_quiet() -> bool:
    """Whether ``-q`` was given."""
    return bool(_settings["quiet"])


def is_json() -> bool:
    """Whether ``--log json`` was given: each thing said is one record."""
    return _settings["form"] == "json"


def tell(level: str, words: str, **fields: Json) -> None:
    """Say it, unless the user asked for less."""
    voice()(level, words, **fields)


def voice() -> Narrator:
    """The process's narrator, made when it is first needed."""
    if not _voice:
        from runner.cli.narrator import Narrator

        _voice.append(
            Narrator(
                quiet=bool(_settings["quiet"]),
                verbose=bool(_settings["verbose"]),
                form=str(_settings["form"]),
            )
        )
    return _voice[0]
