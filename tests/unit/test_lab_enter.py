"""The script that runs in the lab is a shell script that busybox can read."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.lab.machine import CHECKOUT, Lab

SCRIPT = CHECKOUT / "tests/lab/enter.sh"
OF_THE_SHELL = {
    "[", "break", "case", "cd", "continue", "done", "do", "echo", "else", "esac", "exec", "fi", "for", "if",
    "read", "set", "then", "ulimit", "umask", "while",
}  # fmt: skip


def called(script: str) -> set[str]:
    """The programs that a shell script calls, its here-documents left out: the first word of each command."""
    script = re.sub(r"<<'END'\n.*?\nEND\n", "\n", script, flags=re.DOTALL)
    script = re.sub(r"(^|\s)#.*", "", script)
    functions = set(re.findall(r"^(\w+)\(\)", script, re.MULTILINE))
    script = re.sub(r"\d*[<>]+&?\S+", "", script.replace('"', ""))  # redirections
    script = re.sub(r"\b\w+=(?=\$\()|\b\w+=\S*", "", script)  # assignments; what stands in $(…) stays
    pieces = re.split(r"\$\(|[\n;|&{}()]|\b(?:do|then|else|if|while)\b|\s!\s", script)
    first = {words[0] for piece in pieces if (words := piece.split())}
    return {word for word in first if not word.startswith("/")} - OF_THE_SHELL - functions


@pytest.mark.parametrize("shell", [("busybox", "sh"), ("sh",)])
def test_the_script_has_no_syntax_error(shell):
    subprocess.run([*shell, "-n", SCRIPT], check=True)


def test_every_program_it_calls_is_an_applet_of_busybox():
    """Before the host's file system is there, nothing else is."""
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    programs = called(SCRIPT.read_text())
    assert {"mount", "mkdir", "ln", "cat", "uname", "ip", "stty", "chroot"} <= programs
    assert programs <= set(applets)
    assert shutil.which("setsid"), "taken from the host's own"


def test_a_program_is_found_wherever_a_script_calls_it():
    script = 'a x # b\nc=1 d && e | f; g=$(h "$(i)") || { j; }\n'
    script += 'if ! k; then l; fi >m <"n"\no() { p; }\no 2>&1\n'
    assert called(script) == {"a", "d", "e", "f", "h", "i", "j", "k", "l", "p"}


def test_the_lab_looks_where_the_cache_is(tmp_path, monkeypatch):
    """Kernels are fetched outside, and their notes and modules are found by both sides in one place."""
    monkeypatch.setenv("VMRUN_CACHE_DIR", str(tmp_path))
    lab = Lab("true")
    try:
        assert (lab.folder / "cache").read_text() == str(tmp_path)
        assert f"VMRUN_CACHE_DIR={tmp_path}\n" in (lab.folder / "env").read_text()
    finally:
        lab.close()
    assert '/lab/cache)"/kernels/' in SCRIPT.read_text()
