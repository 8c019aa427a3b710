import os
import sys
from pathlib import Path

import pytest

from keyvigil_cli.owned_process import OwnedProcess, ProgramFailedError, run_program, tail_of


def run(code: str, folder: Path, *, within: float = 30) -> list[str]:
    lines: list[str] = []
    run_program(
        [sys.executable, "-c", code],
        cwd=folder,
        environ={"PATH": os.environ["PATH"]},
        log=folder / "program.log",
        within=within,
        on_line=lines.append,
    )
    return lines


def test_each_line_is_handed_over(tmp_path: Path) -> None:
    assert run("print('one'); print('two')", tmp_path) == ["one", "two"]


def test_a_second_run_does_not_repeat_the_first_one_s_lines(tmp_path: Path) -> None:
    run("print('one')", tmp_path)
    assert run("print('two')", tmp_path) == ["two"]
    assert (tmp_path / "program.log").read_text() == "one\ntwo\n"


def test_an_exit_status_is_an_error_with_the_log_s_tail(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailedError, match=r"exit status 3.*program\.log:\nwhy it failed"):
        run("print('why it failed'); raise SystemExit(3)", tmp_path)


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailedError, match="did not end within 0 s"):
        run("import signal; signal.pause()", tmp_path, within=0)


def test_a_program_that_ignores_requests_to_end_is_ended_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyvigil_cli.owned_process._GRACE_SECONDS", 0.05)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    process = OwnedProcess([sys.executable, "-c", stubborn], cwd=tmp_path, environ={}, log=tmp_path / "program.log")
    assert process.exit_status is None
    process.stop()
    assert process.exit_status is not None


def test_the_caller_s_environment_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    assert run("import os; print(os.environ.get('AWS_PROFILE'))", tmp_path) == ["None"]


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("".join(f"{number}\n" for number in range(100)))
    assert tail_of(log, 2) == "98\n99"


def test_the_tail_of_a_missing_log_says_so(tmp_path: Path) -> None:
    assert "was never written" in tail_of(tmp_path / "nothing.log")
