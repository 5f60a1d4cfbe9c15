"""Commands that do nothing but answer: --version, --help and completion."""

from __future__ import annotations

from bench.metrics import Goal, Metric
from bench.process import Program, RunFailed
from bench.rounds import Contestant, Plan, Sample
from bench.session import Bench

NAME = "commands"
TITLE = "Commands that only answer"
IN_QUICK = False
NEEDS_KVM = False
METHOD = """\
Outside the lab, from exec to the end of the process. vmrun as it is installed (`vmrun` of the
virtual environment), against the same interpreter that only imports argparse."""
ARGPARSE = "python3 -c 'import argparse'"
COMMANDS = {
    "version": ["vmrun", "--version"],
    "help": ["vmrun", "--help"],
    "completion": ["vmrun", "completion", "bash"],
}
METRICS = (
    *(Metric(key, " ".join(words), "s", goals=(Goal(1.5, (ARGPARSE,)),)) for key, words in COMMANDS.items()),
    *(Metric(f"{key}_cpu", f"{' '.join(words)}, CPU time", "s") for key, words in COMMANDS.items()),
)
DEADLINE = 20.0


def prepare() -> None:
    """Nothing is needed."""


def measure(bench: Bench) -> None:
    """Each command once in each round."""
    contestants = [
        Contestant("vmrun", _vmrun),
        Contestant(ARGPARSE, _argparse),
    ]
    bench.interleave(contestants, Plan(25, 3))


def _vmrun() -> Sample:
    taken = {key: _whole(words) for key, words in COMMANDS.items()}
    cpu = {f"{key}_cpu": used for key, (_, used) in taken.items()}
    return {**{key: seconds for key, (seconds, _) in taken.items()}, **cpu}


def _argparse() -> Sample:
    seconds, used = _whole(["python3", "-c", "import argparse"])
    return {**dict.fromkeys(COMMANDS, seconds), **{f"{key}_cpu": used for key in COMMANDS}}


def _whole(words: list[str]) -> tuple[float, float]:
    """Seconds by the clock, and on the CPU.  Raises RunFailed."""
    with Program(words) as program:
        seconds = program.finish(DEADLINE)
        if program.status:
            raise RunFailed(f"{' '.join(words)}: status {program.status}: {program.complaint()[-300:]}")
        return seconds, program.cpu
