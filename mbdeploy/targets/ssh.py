"""A real board by ssh: from ``ssh:[USER@]HOST[:PORT]`` to the command that reaches it and starts a Python there."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from collections.abc import Sequence

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets.board.packages import OWN_PYTHON
from mbdeploy.targets.board.target import BoardTarget

# A leading "-" would be an option; no character here means anything to a shell, or to the user's ProxyCommand.
_ARGUMENT = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "4",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ForwardX11": "no",
    "ForwardAgent": "no",
    "RemoteCommand": "none",
    "LogLevel": "ERROR",
}
_CONFIG_S = 10.0

# Fixed text that sh reads, handed on by any login shell (bash, fish, csh): no quotes but these, and nothing is put in.
_BOOT = (
    'import sys; sys.version_info < (3, 9) and sys.exit("Python %d.%d" % sys.version_info[:2]); '
    "del sys.path[0]; b = sys.stdin.buffer; exec(b.read(int(b.readline())))"
)
_START = f'p="$HOME/{OWN_PYTHON}"; test -x "$p" || p=python3; exec "$p" -c "$1" "$p"'
REMOTE = f"exec sh -c {shlex.quote(_START)} sh {shlex.quote(_BOOT)}"


def open_ssh(argument: str, *, options: Sequence[str] = (), silence_s: float = 12.0) -> BoardTarget:
    """The target ``ssh:[USER@]HOST[:PORT]``; HOST may be a name of the user's ssh configuration, or ``[IPv6]``.

    ``options`` go to ssh before all others, such as ``("-F", FILE)``; a connection over which nothing comes for
    ``silence_s`` is lost. All else is as the user's configuration says, except that the host key is always
    checked: where it says not to, unknown and changed ones are refused.

    Raises:
        UsageError: what could not be a host, or could be more than one.
        UnavailableError: no ssh here, or a configuration that it refuses.
    """
    found = _ARGUMENT.fullmatch(argument)
    if found is None or int(found["port"] or 22) not in range(1, 65536):
        raise UsageError(
            where=f"ssh:{argument}",
            expected="[USER@]HOST[:PORT] of letters, digits, and . _ -",
            found=repr(argument),
            todo="name the board in ~/.ssh/config, and give that name",
        )
    host = found["host"].strip("[]")
    destination = f"{found['user']}@{host}" if found["user"] else host
    settings = [*options, *(word for item in _OPTIONS.items() for word in ("-o", "=".join(item)))]
    port = ["-p", found["port"]] if found["port"] else []
    strict = ["-o", "StrictHostKeyChecking=yes"] if _trusts_anyone([*settings, *port, "--", destination]) else []
    return BoardTarget(
        name=f"ssh:{argument}",
        command=("ssh", "-T", *settings, *strict, *port, "--", destination, REMOTE),
        login=" ".join([*port, destination]),
        key=f"'[{host}]:{found['port']}'" if found["port"] else host,
        silence_s=silence_s,
        device=name_device(host, found["port"] or ""),
    )


def name_device(host: str, port: str = "") -> str:
    """What a board is called where one worker at a time may have it: ``dev_board1`` for board1.

    Letters and digits of HOST[:PORT], small, with ``_`` between them; where that is not all of it, the first eight
    digits of the SHA-256 of HOST[:PORT] follow, so that no two boards share a name: ``dev_10_0_0_5_…``. Who logs in
    does not matter.
    """
    said = f"{host}:{port}".lower().rstrip(":")
    plain = re.sub(r"[^a-z0-9]+", "_", said).strip("_")
    return f"dev_{plain}" if plain == said else f"dev_{plain[:40]}_{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _trusts_anyone(words: Sequence[str]) -> bool:
    """Whether the user's configuration would go on with a host key that has changed."""
    try:
        asked = subprocess.run(["ssh", "-G", *words], capture_output=True, text=True, timeout=_CONFIG_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UnavailableError(
            where="ssh",
            expected="OpenSSH's client, and a configuration that it can read",
            found=said[-1],
            todo="install it, or see `man ssh_config`",
        ) from error
    return re.search(r"(?m)^stricthostkeychecking (no|false|off)$", asked.stdout) is not None
