"""Programs that stand in for apt, dpkg, pip and qemu: one file, called by their names, that writes down every call.

tests/targets/conftest.py makes a program of each name of it. The folder it lies in holds ``calls`` (a line a call,
words parted by tabs) and, for a program that shall fail, ``PROGRAM.fails``: the word at which it does, a bar, and what
it says. It starts a hundred times in the tests, so it imports next to nothing.
"""
# ruff: noqa: PTH101, PTH103, PTH110, PTH113, PTH118, PTH119, PTH120, PTH123

import os
import sys

HERE, NAME = os.path.split(sys.argv[0])
WORDS = sys.argv[1:]
PACKAGES = {
    "python3.11-minimal": ["usr/bin/python3.11", "usr/bin/python3.11-config", "usr/share/doc/readme"],
    "libstdc++6": ["usr/lib/aarch64-linux-gnu/libstdc++.so.6"],
    "qemu-user": [
        "usr/bin/qemu-aarch64",
        "usr/bin/qemu-x86_64",
        "usr/bin/qemu-alpha",
        "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    ],
}
# CPU -> (HWCAP, HWCAP2, MIDR), as qemu 7.2 has them.
CPUS = {
    "cortex-a53": (0x8FB, 0, 0x410FD034),
    "cortex-a76": (0x119FFB, 0, 0x414FD0B1),
    "a64fx": (0x415FFB, 0, 0x461F0010),
}
FACTS = '{"machine": "aarch64", "python": "3.11.2", "libc": "2.36", "hwcap": %d, "hwcap2": %d, "midr": %d}'


def after(word: str) -> str:
    return WORDS[WORDS.index(word) + 1]


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path: str, text: str, mode: str = "w") -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, mode, encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, 0o755)


def run_apt_get() -> None:
    warns = os.path.join(HERE, "apt-get.warns")
    if os.path.exists(warns):  # (apt goes on, and ends well)
        sys.stderr.write(read(warns))
    if "install" in WORDS:
        for name in WORDS[WORDS.index("install") + 1 :]:
            write(os.path.join(os.path.dirname(after("-c")), "cache", "archives", f"{name}_1.0.deb"), name)


def run_apt_cache() -> None:
    sys.stdout.write("python3-minimal\n  PreDepends: python3.11-minimal\n  Depends: dpkg\n")


def run_dpkg_deb() -> None:
    package = os.path.basename(WORDS[1]).partition("_")[0]
    for name in PACKAGES.get(package, []):
        write(os.path.join(WORDS[2], name), read(__file__))


def run_pip() -> None:
    import zipfile

    for name, equal, version in (word.partition("==") for word in WORDS):
        if equal:
            with zipfile.ZipFile(os.path.join(after("--dest"), f"{name}-{version}-cp311-cp311-any.whl"), "w") as wheel:
                wheel.writestr(f"{name}/__init__.py", "")


def run_qemu() -> int:
    if NAME.startswith("ld-linux"):  # a loader: --library-path FOLDERS PROGRAM and its words
        del WORDS[:3]
    if WORDS == ["--version"]:
        sys.stdout.write("qemu-aarch64 version 9.9.9 (made up)\nCopyright\n")
        return 0
    if WORDS == ["-cpu", "help"]:
        sys.stdout.write("Available CPUs:\n" + "".join(f"  {name}\n" for name in CPUS))
        return 0
    if WORDS[-1].endswith("guest.py"):
        own = os.path.join(HERE, "guest.says")
        sys.stdout.write(read(own) if os.path.exists(own) else FACTS % CPUS[after("-cpu")])
        return 0
    needed = ("proc/cpuinfo", "usr/bin/python3.11")
    return 0 if all(os.path.isfile(os.path.join(after("-L"), name)) for name in needed) else 139


def main() -> int:
    write(os.path.join(HERE, "calls"), "\t".join([NAME, *WORDS]) + "\n", "a")
    fails = os.path.join(HERE, f"{NAME}.fails")
    word, _, says = read(fails).partition("|") if os.path.exists(fails) else ("", "", "")
    if word in WORDS:
        sys.stderr.write(says)
        return 100
    programs = {"apt-get": run_apt_get, "apt-cache": run_apt_cache, "dpkg-deb": run_dpkg_deb, "python": run_pip}
    return programs.get(NAME, run_qemu)() or 0


if __name__ == "__main__":
    sys.exit(main())
