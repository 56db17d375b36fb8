"""The dispatcher: help, exit codes, and errors as one line."""

import argparse
import importlib.util
import subprocess
import sys
import textwrap
import types

import pytest

from aizuchi import __version__, cli
from aizuchi.errors import AizuchiError


@pytest.fixture
def command(monkeypatch):
    """Install a command `greet` whose `run` is the given function."""

    def install(run):
        module = types.ModuleType("fake_greet", "Greets somebody.\n\nAt length.")
        module.add_arguments = lambda parser: parser.add_argument("--name", required=True)
        module.run = run
        monkeypatch.setitem(sys.modules, "fake_greet", module)
        monkeypatch.setitem(cli.COMMANDS, "greet", ("fake_greet", "greet somebody"))

    return install


def _raise(error):
    def run(args):
        raise error

    return run


def _python(code, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_lists_every_command_with_its_line(capsys, command):
    command(lambda args: 0)
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, (_, summary) in cli.COMMANDS.items():
        assert any(line.split() == [name, *summary.split()] for line in out.splitlines())
    assert cli.main([]) == 0
    assert capsys.readouterr().out == out


def test_every_row_of_the_table_is_a_command():
    for name, (module_name, summary) in cli.COMMANDS.items():
        assert importlib.util.find_spec(module_name), name
        module = importlib.import_module(module_name)
        module.add_arguments(argparse.ArgumentParser())
        assert callable(module.run) and "\n" not in summary


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"]])
def test_help_and_usage_errors_load_nothing_heavy(arguments):
    result = _python(
        """
        import sys
        from aizuchi.cli import main
        main(sys.argv[1:])
        heavy = {"torch", "transformers", "numpy", "soundfile", "huggingface_hub"} & set(sys.modules)
        print("heavy:", sorted(heavy))
        """,
        *arguments,
    )
    assert result.stdout.splitlines()[-1] == "heavy: []", result


def test_help_of_each_command_leaves_torch_alone():
    result = _python(
        """
        import sys
        from aizuchi import cli
        for name in cli.COMMANDS:
            assert cli.main([name, "--help"]) == 0, name
            heavy = {"torch", "transformers"} & set(sys.modules)
            assert not heavy, (name, heavy)
        """
    )
    assert result.returncode == 0, result.stderr


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"aizuchi {__version__}\n"


def test_a_command_gets_its_arguments_and_its_status_is_returned(command, capsys):
    command(lambda args: print(args.name) or 7)
    assert cli.main(["greet", "--name", "Ada"]) == 7
    assert capsys.readouterr().out == "Ada\n"


def test_help_of_a_command_is_its_docstring(command, capsys):
    command(lambda args: 0)
    assert cli.main(["greet", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: aizuchi greet") and "Greets somebody.\n\nAt length." in out


def test_an_unknown_command_suggests_the_nearest(command, capsys):
    command(lambda args: 0)
    assert cli.main(["gret"]) == 2
    assert capsys.readouterr().err == "aizuchi: unknown command 'gret': did you mean 'greet'?\n"
    assert cli.main(["zzzzzz"]) == 2
    assert capsys.readouterr().err == "aizuchi: unknown command 'zzzzzz': see aizuchi --help\n"


@pytest.mark.parametrize("arguments", [["greet"], ["greet", "--name", "x", "--nope"], ["--nope"]])
def test_usage_errors_are_one_line(command, capsys, arguments):
    command(lambda args: 0)
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("aizuchi") and "--help" in err


@pytest.mark.parametrize(
    "error, message",
    [
        (AizuchiError("rows must be\npositive"), "aizuchi: rows must be positive\n"),
        (ValueError("bad value"), "aizuchi: bad value (--debug shows where)\n"),
        (
            FileNotFoundError(2, "No such file or directory", "a.wav"),
            "aizuchi: No such file or directory: a.wav (--debug shows where)\n",
        ),
    ],
)
def test_user_errors_are_one_line_and_debug_shows_the_traceback(command, capsys, error, message):
    command(_raise(error))
    assert cli.main(["greet", "--name", "x"]) == 2
    assert capsys.readouterr().err == message
    for arguments in (["--debug", "greet", "--name", "x"], ["greet", "--name", "x", "--debug"]):
        assert cli.main(arguments) == 2
        err = capsys.readouterr().err
        assert "Traceback" in err and "in run" in err


def test_a_bug_keeps_its_traceback(command):
    command(_raise(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["greet", "--name", "x"])


def test_an_interrupt_ends_with_130_and_a_short_line(command, capsys):
    command(_raise(KeyboardInterrupt()))
    assert cli.main(["greet", "--name", "x"]) == 130
    assert capsys.readouterr().err == "aizuchi: interrupted\n"


# A real pipe whose reader is gone before anything is written; `sys.argv[1]` lines are printed.
PRINTER = """
import sys, types
from aizuchi import cli
module = types.ModuleType("printer")
module.add_arguments = lambda parser: None
module.run = lambda args: [print("line") for _ in range(int(sys.argv[1]))] and 0
sys.modules["printer"] = module
cli.COMMANDS["print"] = ("printer", "print lines")
sys.exit(cli.main(["print"]))
"""


@pytest.mark.parametrize("lines", ["1", "100000"])  # noticed at the last flush, and in the middle
def test_a_reader_that_left_is_no_error(lines):
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTER, lines], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert stderr == ""
    process.stderr.close()


def test_a_broken_pipe_elsewhere_is_reported(command, capsys):
    command(_raise(BrokenPipeError(32, "Broken pipe")))
    assert cli.main(["greet", "--name", "x"]) == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_python_dash_m_runs_the_command():
    result = subprocess.run([sys.executable, "-m", "aizuchi", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"aizuchi {__version__}\n")
