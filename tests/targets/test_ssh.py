"""A board by ssh: what may be its name, and what is said when it is not ready, lies or fails; ssh is a script here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mbdeploy.errors import MbdeployError, OutputError, StepError, UnavailableError, UsageError
from mbdeploy.targets import Job, Session, find_device, open_target, parse_provider
from mbdeploy.targets.board import connection, far, packages
from mbdeploy.targets.board import target as board_target
from mbdeploy.targets.board.target import BoardTarget
from mbdeploy.targets.ssh import REMOTE, name_device, open_ssh

CPU = "CPUExecutionProvider"


@pytest.fixture
def job(make_mean_model: Callable[..., Path], images: np.ndarray) -> Job:
    return Job(kind="infer", sessions=(Session(model=make_mean_model(), provider=CPU),), inputs=images)


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a program called ssh on the search path: a script that says what ``-G`` says, then does what it is given."""

    def make(script: str, strict: str = "ask") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program, calls = folder / "ssh", tmp_path / "calls"
        program.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {calls}\n"
            f'for word; do [ "$word" = -G ] && echo "stricthostkeychecking {strict}" && exit 0; done\n{script}\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return calls

    return make


def refuse(target: BoardTarget, job: Job) -> MbdeployError:
    with pytest.raises(MbdeployError) as caught:
        target.run(job)
    return caught.value


# ---- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        "",
        "-oProxyCommand=touch /tmp/x",
        "pi@-oProxyCommand=x",
        "board;reboot",
        "board$(reboot)",
        "`reboot`",
        "board reboot",
        "board\nreboot",
        "board'",
        "pi@evil@board",
        "board:22:23",
        "board:0",
        "board:65536",
        "board:ssh",
        "%h",
        "ssh://board",
        "[::1",
        "bo/ard",
        "|reboot",
        "bördchen",
    ],
)
def test_what_is_no_host_name_never_reaches_ssh(word: str, fake_ssh: Callable[..., Path]) -> None:
    calls = fake_ssh("exit 255")
    with pytest.raises(UsageError, match=r"\[USER@\]HOST\[:PORT\]"):
        open_ssh(word)
    assert not calls.exists()


@pytest.mark.parametrize(
    ("word", "ends"),
    [
        ("board", ["--", "board"]),
        ("pi@board.local", ["--", "pi@board.local"]),
        ("pi@10.0.0.7:2222", ["-p", "2222", "--", "pi@10.0.0.7"]),
        ("pi@[fe80::1]:22", ["-p", "22", "--", "pi@fe80::1"]),
    ],
)
def test_the_destination_comes_after_all_options_and_before_one_fixed_command(
    word: str, ends: list[str], fake_ssh: Callable[..., Path]
) -> None:
    fake_ssh("exit 255")
    target = open_target(parse_provider(f"cpu@ssh:{word}"))
    assert isinstance(target, BoardTarget)
    assert target.command[0] == "ssh"
    assert list(target.command[-len(ends) - 1 :]) == [*ends, REMOTE]
    assert "BatchMode=yes" in target.command
    assert not any(option.startswith("StrictHostKeyChecking") for option in target.command)


@pytest.mark.parametrize(
    ("strict", "added"), [("false", True), ("no", True), ("off", True), ("accept-new", False), ("true", False)]
)
def test_host_keys_are_checked_even_where_the_users_configuration_says_not_to(
    strict: str, added: bool, fake_ssh: Callable[..., Path]
) -> None:
    fake_ssh("exit 255", strict)
    assert ("StrictHostKeyChecking=yes" in open_ssh("board").command) == added


def test_a_word_for_an_architecture_asks_the_board_for_it(fake_ssh: Callable[..., Path]) -> None:
    fake_ssh("exit 255")
    opened = [open_target(parse_provider(word)) for word in ("cpu@ssh:board", "arm@ssh:board")]
    assert [target.machine for target in opened if isinstance(target, BoardTarget)] == ["", "aarch64"]


# ---- boards that are not ready ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "found", "todo"),
    [
        (
            "echo 'ssh: connect to host board port 22: Connection refused' >&2; exit 255",
            "ssh: connect to host board port 22: Connection refused",
            "`ssh pi@board` logs in",
        ),
        ("echo 'pi@board: Permission denied (publickey).' >&2; exit 255", "Permission denied", "ssh-copy-id pi@board"),
        ("echo 'fish: Unknown command: python3' >&2; exit 127", "no python3", "apt-get install python3-venv"),
        ("echo 'Python 3.8' >&2; exit 1", "Python 3.8", "Python 3.9 or newer"),
        ("echo 'Host key verification failed.' >&2; exit 255", "not known here", "log in once with `ssh pi@board`"),
        ("exit 0", "the connection ended", "`ssh pi@board` logs in"),
    ],
)
def test_a_board_that_does_not_answer_is_unavailable_with_the_reason(
    job: Job, fake_ssh: Callable[..., Path], script: str, found: str, todo: str
) -> None:
    fake_ssh(script)
    error = refuse(open_ssh("pi@board"), job)
    assert isinstance(error, UnavailableError)
    assert (error.where, error.exit_code) == ("ssh:pi@board", 3)
    assert found in error.found
    assert todo in error.todo


@pytest.mark.slow
def test_a_board_that_says_nothing_at_all_is_a_connection_that_was_lost(
    job: Job, fake_ssh: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ssh("exec sleep 60")
    monkeypatch.setattr(board_target, "_HELLO_S", 0.3)
    error = refuse(open_ssh("board", silence_s=0.6), job)
    assert isinstance(error, StepError)
    assert error.found == "TRANSPORT while connecting: nothing came for 0.3 s"


@pytest.mark.parametrize(
    "words", ["Connection timed out during banner exchange", "Timeout, server board not responding."]
)
def test_a_connection_that_ssh_itself_takes_for_lost_is_one(
    job: Job, fake_ssh: Callable[..., Path], words: str
) -> None:
    fake_ssh(f"echo '{words}' >&2; exit 255")
    error = refuse(open_ssh("board"), job)
    assert isinstance(error, StepError)
    assert error.found == f"TRANSPORT while connecting: the connection ended; {words}"


def test_a_silent_connection_is_left_within_20_s_at_each_of_its_ends() -> None:
    silence_s = open_ssh.__kwdefaults__["silence_s"]
    waits_s = 1 + silence_s / connection._ENDS  # for ssh to say why, and then to end
    assert max(board_target._HELLO_S, silence_s) + waits_s < 20


def test_without_ssh_there_are_no_boards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="No such file or directory: 'ssh'"):
        open_ssh("board")


INSTALL = "~/.mbdeploy/bin/python3 -m pip install numpy onnxruntime"
HELLO = '{"hello": {"python": "%s", "machine": "%s", "modules": %s}}'


@pytest.mark.parametrize(
    ("python", "modules", "command"),
    [
        (
            "python3",
            '["numpy"]',
            f"`ssh -p 2222 pi@board 'python3 -m venv ~/.mbdeploy && {INSTALL}'`",
        ),
        (
            "/home/pi/.mbdeploy/bin/python3",
            "[]",
            f"`ssh -p 2222 pi@board '{INSTALL}'`",
        ),
    ],
)
def test_a_missing_package_is_named_with_the_one_command_that_brings_it(
    job: Job, fake_ssh: Callable[..., Path], python: str, modules: str, command: str
) -> None:
    fake_ssh(f"echo 'Welcome to the board!'; echo '[1]'; echo '{HELLO % (python, 'aarch64', modules)}'; cat >/dev/null")
    error = refuse(open_ssh("pi@board:2222"), job)
    assert isinstance(error, UnavailableError)
    assert "onnxruntime" in error.expected
    assert command in error.todo


PACKAGES = '{"packages": {"python": [3, %d], "versions": %s, "failed": "%s"}}'
OWN = "~/.mbdeploy/bin/python3"


@pytest.mark.parametrize(
    ("minor", "versions", "failed", "expected", "found"),
    [
        (11, '{"numpy": "1.26.0", "onnxruntime": "1.23.2"}', "", "onnxruntime 1.24 or newer", "1.23.2"),
        (11, '{"numpy": "1.25.2", "onnxruntime": "1.24.0"}', "", "numpy 1.26 or newer", "1.25.2"),
        (10, '{"numpy": "2.2.6", "onnxruntime": "1.22.1"}', "", "onnxruntime 1.23 or newer", "1.22.1"),
        (9, '{"numpy": "2.0.2", "onnxruntime": "1.18.1"}', "", "onnxruntime 1.19 or newer", "1.18.1"),
        (12, '{"numpy": "2.4.0", "onnxruntime": ""}', "", "onnxruntime 1.24 or newer", "does not say its version"),
        (12, '{"numpy": "2.4.0"}', "ImportError: libx.so: no such file", "onnxruntime 1.24", "ImportError: libx.so"),
        (12, '{"numpy": "2.4.0"}', "killed by SIGILL", "onnxruntime 1.24 or newer that", "killed by SIGILL"),
        (12, "{}", "", "numpy 1.26 or newer that /home/pi/.mbdeploy/bin/python3 there can import", "it ended early"),
    ],
)
def test_a_package_that_is_too_old_or_broken_is_named_with_the_board_and_the_one_command(
    job: Job, fake_ssh: Callable[..., Path], minor: int, versions: str, failed: str, expected: str, found: str
) -> None:
    hello = HELLO % ("/home/pi/.mbdeploy/bin/python3", "aarch64", '["numpy", "onnxruntime"]')
    fake_ssh(f"echo '{hello}'; echo '{PACKAGES % (minor, versions, failed)}'; cat >/dev/null")
    error = refuse(open_ssh("pi@board"), job)
    assert isinstance(error, UnavailableError)
    assert error.where == "ssh:pi@board"
    assert expected in error.expected
    assert found in error.found
    assert error.todo == f"run `ssh pi@board '{OWN} -m pip install --upgrade --force-reinstall numpy onnxruntime'`"


def test_floors_of_boards_are_those_of_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for name, floor in packages.FLOORS.items():
        assert f'"{name}>={".".join(map(str, floor))}' in text
    oldest = ".".join(map(str, packages.LAST[3, 10]))
    assert f"onnxruntime>={oldest}; python_version < '3.11'" in text
    assert packages.find_floor("onnxruntime", (3, 13)) == packages.FLOORS["onnxruntime"]


@pytest.mark.parametrize(
    ("sessions", "wheels"),
    [
        ([], ["numpy", "onnxruntime"]),
        ([("onnxruntime", "CUDAExecutionProvider")], ["numpy", "onnxruntime-gpu"]),
        ([("openvino", "OpenVINO")], ["numpy", "openvino"]),
        ([("onnxruntime", "CPUExecutionProvider"), ("openvino", "OpenVINO")], ["numpy", "onnxruntime", "openvino"]),
        ([("onnxruntime", "QNNExecutionProvider")], ["numpy", "onnxruntime"]),
        ([("onnxruntime", "OpenVINOExecutionProvider")], ["numpy", "onnxruntime"]),
    ],
)
def test_the_wheels_of_a_job_are_those_that_carry_its_providers(
    sessions: list[tuple[str, str]], wheels: list[str]
) -> None:
    asked = tuple(Session(model=Path("m.onnx"), runtime=runtime, provider=ep) for runtime, ep in sessions)
    assert list(packages.list_needed(Job(kind="infer", sessions=asked)).values()) == wheels


def test_arm_is_not_answered_by_a_board_of_another_architecture(job: Job, fake_ssh: Callable[..., Path]) -> None:
    fake_ssh(f"echo '{HELLO % ('python3', 'riscv64', '[]')}'; cat >/dev/null")
    target = open_target(parse_provider("arm@ssh:board"))
    with pytest.raises(UnavailableError, match="a board that is riscv64"):
        target.run(job)


def test_a_board_whose_runtime_is_too_old_for_a_model_is_told_apart_before_anything_is_sent(
    job: Job, fake_ssh: Callable[..., Path], tmp_path: Path
) -> None:
    hello = HELLO % ("python3", "x86_64", '["numpy", "onnxruntime"], "onnxruntime": "1.15.1"')
    fake_ssh(f"echo '{hello}'; exec cat > {tmp_path}/sent")
    session = msgspec.structs.replace(job.sessions[0], opset=21, ir_version=10)
    error = refuse(open_ssh("board"), msgspec.structs.replace(job, sessions=(session,)))
    assert isinstance(error, UnavailableError)
    assert error.found == "ONNX Runtime 1.15.1, which takes opset 19, IR version 9 at most"
    assert error.expected == "an ONNX Runtime for opset 21, IR version 10 (mean.onnx)"
    code = Path(far.__file__).read_bytes()
    assert (tmp_path / "sent").read_bytes() in (b"", b"%d\n%b" % (len(code), code))


# ---- boards that lie, or fail ----------------------------------------------------------------------

READY = "echo '{}'".format(HELLO % ("python3", "x86_64", '["numpy", "onnxruntime"]'))


END = '{"returncode": %s, "timed_out": false, "stderr": "", "wall_s": 1}'
DONE = f'{{"ended": {END % 0}}}'
HOT = f'{{"ended": {END % 0}, "heat": {{"before": {{}}}}}}'
ENDED = f'{{"said": "%s"}}\n{{"ended": {END}}}'


def send(content: str, then: str) -> str:
    """What a board says to send this as its result, and then that."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f'{{"file": "result.json", "size": {len(content)}}}\n{content}{digest}{then}'


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ('{"file": "../../evil", "size": 1}', "it sent a file called '../../evil'"),
        ('{"file": "result.json", "size": 9000000000000}', "it sent more than 8 GiB"),
        ('{"file": "result.json", "size": 1}\nx' + 64 * "0", "result.json arrived damaged"),
        ('{"size": "many"}', "Expected `int`"),
        ("nonsense", "what came is no message"),
        ('{"failed": "input.npy arrived damaged", "kind": "TRANSPORT"}', "input.npy arrived damaged"),
        ('{"said": "{\\"at\\": [0, \\"running\\"]}"}', "while running: the connection ended"),
        ('{"said": "garbage"}', "while sending the job: JSON is malformed"),
        ('{"said": "{\\"at\\": 3}"}', "Expected `array | null`, got `int` - at `$.at`"),
        ('{"said": "{\\"progress\\": [1]}"}', "at `$.progress[0]`"),
        ('{"said": "[1]"}', "Expected `object`, got `array`"),
        ("{" * 100_000, "what came is no message"),
        ('{"a":' * 100_000, "what came is no message"),
        ('{"file": "result.json", "size": -1}', "Expected `int` >= 0"),
        (send("{}", DONE), "while reading it: KeyError"),
        (send("[1]", DONE), "while reading it: TypeError"),
        (send("garbage", DONE), "while reading it: JSONDecodeError"),
        (send("{}", HOT), "its result is none of the agent's"),
        (ENDED % ('{\\"refused\\": \\"unavailable\\"}', 1), "while reading it: KeyError"),
        (ENDED % ('{\\"at\\": [9, \\"x\\"]}', 1), "while reading it: IndexError"),
    ],
)
def test_what_a_board_should_not_say_ends_the_connection(
    job: Job, fake_ssh: Callable[..., Path], tmp_path: Path, says: str, found: str
) -> None:
    (tmp_path / "says").write_text(says + "\n")
    fake_ssh(f"{READY}; cat {tmp_path}/says; exit 255")
    error = refuse(open_ssh("board"), job)
    assert isinstance(error, StepError)
    assert "TRANSPORT while" in error.found
    assert found in error.found


def test_a_board_without_room_says_so(job: Job, fake_ssh: Callable[..., Path]) -> None:
    fake_ssh(f'{READY}; echo \'{{"failed": "no space left on device", "kind": "OUTPUT"}}\'')
    error = refuse(open_ssh("board"), job)
    assert isinstance(error, OutputError)
    assert error.found == "no space left on device"


def test_a_board_that_stays_held_is_refused_with_who_holds_it(job: Job, fake_ssh: Callable[..., Path]) -> None:
    fake_ssh(f'{READY}; echo \'{{"held": "ann"}}\'; echo \'{{"busy": "ann from 10.0.0.7 since 12:00"}}\'')
    seen: list[str] = []
    with pytest.raises(UnavailableError, match=r"held by ann from 10.0.0.7 since 12:00"):
        open_ssh("board").run(job, lambda what, done, total: seen.append(what))
    assert seen == ["waiting for ssh:board, which is held by ann"]


@pytest.mark.slow
def test_a_board_that_stops_talking_is_left(job: Job, fake_ssh: Callable[..., Path]) -> None:
    fake_ssh(f"{READY}; exec sleep 60")
    error = refuse(open_ssh("board", silence_s=0.5), job)
    assert isinstance(error, StepError)
    assert "TRANSPORT while sending the job: nothing came for 0.5 s" in error.found


@pytest.mark.parametrize(
    ("host", "port", "name"),
    [
        ("board1", "", "dev_board1"),
        ("Board1", "", "dev_board1"),
        ("10.0.0.5", "2222", "dev_10_0_0_5_2222_64a7b7c0"),
        ("pi-4", "", "dev_pi_4_cc8c639c"),
        ("pi_4", "", "dev_pi_4"),
        ("::1", "", "dev_1_eff8e7ca"),
    ],
)
def test_the_name_of_a_board_is_a_word_and_no_two_boards_share_it(host: str, port: str, name: str) -> None:
    assert name_device(host, port) == name


def test_a_provider_on_a_board_has_its_name_whoever_logs_in_and_others_have_none(
    fake_ssh: Callable[..., Path],
) -> None:
    words = ("arm@ssh:pi@board1", "cpu@ssh:board1", "cpu@ssh:board1:22", "cpu")
    names = [find_device(parse_provider(word)) for word in words]
    assert names[:2] == ["dev_board1"] * 2
    assert names[2].startswith("dev_board1_22_") and names[3] == ""
