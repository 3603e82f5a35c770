"""The emulation prefix, built by stand-ins for apt, pip and qemu: what is in it, what is left of a failure."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mbdeploy.assets import cache_root
from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets.emulation import build_prefix, debian, emulator, find_prefix
from mbdeploy.targets.emulation.cpus import Guest, describe_cpu
from mbdeploy.targets.emulation.prefix import compose_command, find_view, read_manifest

pytestmark = pytest.mark.slow  # each test starts processes

A53 = Guest(machine="aarch64", python="3.11.2", libc="2.36", hwcap=0x8FB, hwcap2=0, midr=0x410FD034)


def read_calls(folder: Path) -> list[list[str]]:
    return [line.split("\t") for line in (folder / "calls").read_text().splitlines()]


def fail(folder: Path, program: str, word: str, says: str) -> None:
    (folder / f"{program}.fails").write_text(f"{word}|{says}")


def list_left(cache: Path) -> set[str]:
    return {path.name for path in (cache / "mbdeploy" / "qemu").iterdir()} - {".lock"}


def test_a_prefix_is_made_of_the_distributions_packages_and_the_indexs_wheels(stand_in_system: Path) -> None:
    built = build_prefix(cpus=["cortex-a53"])
    root = built.folder / "root"
    assert built.folder == find_prefix() and built.folder.name == "aarch64-onnxruntime-1.2.3"
    assert (root / "usr/bin/python3.11").is_file() and not (root / "usr/share").exists()
    assert (root / "lib/aarch64-linux-gnu/libstdc++.so.6").is_file()  # although the package has it in usr/lib
    packages = built.folder / "venv/lib/python3.11/site-packages"
    assert {path.name for path in packages.iterdir()} == {"numpy", "onnxruntime"}
    assert (built.folder / "venv/bin/python").resolve() == (root / "usr/bin/python3.11").resolve()
    assert f"home = {root}/usr/bin\n" in (built.folder / "venv/pyvenv.cfg").read_text()
    assert list_left(built.folder.parents[2]) == {built.folder.name}


def test_the_manifest_has_the_sha256_of_everything_that_was_fetched(stand_in_system: Path) -> None:
    built = build_prefix(cpus=["cortex-a53"])
    manifest = read_manifest(built.folder)
    assert manifest == built.manifest
    assert (manifest.python, manifest.libc, manifest.onnxruntime, manifest.numpy) == (
        "3.11.2",
        "2.36",
        "1.2.3",
        "2.2.6",
    )
    digests = {one.file: one.sha256 for one in manifest.fetched}
    assert set(digests) == {
        "libpython3.11-stdlib_1.0.deb",
        "libstdc++6_1.0.deb",
        "numpy-2.2.6-cp311-cp311-any.whl",
        "onnxruntime-1.2.3-cp311-cp311-any.whl",
        "python3.11-minimal_1.0.deb",
    }
    assert digests["libstdc++6_1.0.deb"] == hashlib.sha256(b"libstdc++6").hexdigest()


def test_apt_works_on_a_state_of_its_own_and_runs_none_of_the_hosts_hooks(
    stand_in_system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    fetch = debian.fetch_packages

    def watch(apt: debian.Apt, packages: list[str]) -> list[Path]:
        seen.append(apt.conf.read_text())
        return fetch(apt, packages)

    monkeypatch.setattr("mbdeploy.targets.emulation.build.fetch_packages", watch)
    build_prefix(cpus=["cortex-a53"])
    lines = seen[0].splitlines()
    folders = [line.split('"')[1] for line in lines if line.startswith("Dir::")]
    assert len(folders) == 5 and all(folder.startswith(str(tmp_path / "cache")) for folder in folders)
    assert {'APT::Architecture "arm64";', "#clear APT::Update;", "#clear DPkg;"} <= set(lines)
    apt = [call for call in read_calls(stand_in_system) if call[0].startswith("apt")]
    assert all(call[1] == "-c" and call[2].startswith(str(tmp_path / "cache")) for call in apt)
    assert ["--download-only" in call for call in apt if "install" in call] == [True]


def test_wheels_are_asked_for_by_version_python_and_no_newer_glibc(stand_in_system: Path) -> None:
    build_prefix(cpus=["cortex-a53"])
    pip = next(call for call in read_calls(stand_in_system) if call[0] == "python")
    assert pip[1:4] == ["-m", "pip", "download"]
    assert {"onnxruntime==1.2.3", "numpy==2.2.6", "--only-binary=:all:", "--no-deps", "cp311"} <= set(pip)
    platforms = [word for before, word in itertools.pairwise(pip) if before == "--platform"]
    assert platforms[0] == "manylinux_2_36_aarch64"
    assert platforms[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


def test_each_cpu_sees_a_cpuinfo_of_its_own_and_shares_everything_else(stand_in_system: Path) -> None:
    built = build_prefix()
    assert built.cpus == built.new == ("cortex-a53", "cortex-a76", "a64fx")  # of ours those that this qemu knows
    parts = set()
    for cpu in built.cpus:
        view = find_view(built.folder, "9.9.9", cpu)
        parts.add((view / "proc/cpuinfo").read_text())
        assert (view / "usr").is_symlink() and (view / "lib").is_symlink()
        assert (view / "usr").resolve() == (built.folder / "root/usr").resolve()
        assert (view / "sys/devices/system/cpu/possible").read_text() == "0\n"  # as many as cpuinfo has
    assert len(parts) == 3


def test_a_second_run_fetches_nothing_and_changes_nothing(stand_in_system: Path) -> None:
    first = build_prefix()
    (stand_in_system / "calls").unlink()
    second = build_prefix()
    assert {call[0] for call in read_calls(stand_in_system)} == {"qemu-aarch64"}
    assert second.new == ()
    assert (second.folder, second.manifest, second.cpus) == (first.folder, first.manifest, first.cpus)


def test_a_cpu_that_is_missing_is_added_alone(stand_in_system: Path) -> None:
    assert build_prefix(cpus=["cortex-a76"]).cpus == ("cortex-a76",)
    (stand_in_system / "calls").unlink()
    built = build_prefix(cpus=["a64fx"])
    assert (built.new, built.cpus) == (("a64fx",), ("cortex-a76", "a64fx"))
    assert {call[0] for call in read_calls(stand_in_system)} == {"qemu-aarch64"}


@pytest.mark.parametrize(
    ("program", "word", "says"),
    [
        ("apt-get", "update", "E: The repository is not signed."),
        ("apt-get", "install", "E: Unable to fetch some archives"),
        ("apt-cache", "depends", "E: No packages found"),
        ("dpkg-deb", "--extract", "dpkg-deb: error: not a Debian format archive"),
        ("python", "download", "ERROR: No matching distribution found for onnxruntime==1.2.3"),
        ("qemu-aarch64", "-L", "qemu: uncaught target signal 4 (Illegal instruction)"),
    ],
)
def test_a_failed_step_names_its_cause_and_leaves_nothing(
    stand_in_system: Path, tmp_path: Path, program: str, word: str, says: str
) -> None:
    fail(stand_in_system, program, word, says)
    with pytest.raises(UnavailableError) as caught:
        build_prefix(cpus=["cortex-a53"])
    assert program in caught.value.found and says in caught.value.found
    assert list_left(tmp_path / "cache") == set()
    (stand_in_system / f"{program}.fails").unlink()
    assert build_prefix(cpus=["cortex-a53"]).new == ("cortex-a53",)


def test_a_cpu_on_which_the_runtime_does_not_load_is_named_and_not_kept(stand_in_system: Path) -> None:
    fail(stand_in_system, "qemu-aarch64", "-c", "qemu: uncaught target signal 11 (Segmentation fault)")
    with pytest.raises(UnavailableError, match=r"loads on an emulated cortex-a76, .*Segmentation fault"):
        build_prefix(cpus=["cortex-a76"])
    folder = find_prefix()
    assert [path.name for path in (folder / "cpus").rglob("*")] == ["9.9.9"]


def test_without_apt_a_root_of_ones_own_is_asked_for(stand_in_system: Path) -> None:
    (stand_in_system / "apt-get").unlink()
    with pytest.raises(UnavailableError, match=r"no apt-get .*--sysroot DIR"):
        build_prefix(cpus=["cortex-a53"])


def test_sources_without_arm64_are_explained_with_the_mirror_to_give(
    stand_in_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (stand_in_system / "apt-cache").read_text()
    (stand_in_system / "apt-cache").write_text(source.replace("python3.11-minimal", "nothing"))
    with pytest.raises(UnavailableError, match=r"none in apt's lists; .*--mirror URI"):
        build_prefix(cpus=["cortex-a53"])


def test_a_source_that_cannot_be_reached_is_told_where_packages_are_missing(stand_in_system: Path) -> None:
    (stand_in_system / "apt-get.warns").write_text("W: Failed to fetch it  Could not connect")
    fail(stand_in_system, "apt-cache", "depends", "E: No packages found")
    with pytest.raises(UnavailableError, match=r"No packages found \(W: Failed to fetch it  Could not connect\)"):
        build_prefix(cpus=["cortex-a53"])


def test_a_mirror_takes_the_place_of_the_hosts_sources(
    stand_in_system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = {"ID": "ubuntu", "VERSION_CODENAME": "noble"}
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: release)
    state = tmp_path / "state"
    apt = debian.open_apt(state, "arm64", "https://mirror.example/ports")
    assert f'Dir::Etc::sourcelist "{state}/sources.list";' in apt.conf.read_text()
    assert (state / "sources.list").read_text().splitlines() == [
        "deb https://mirror.example/ports noble main universe",
        "deb https://mirror.example/ports noble-updates main universe",
    ]


def test_a_sysroot_is_used_where_it_lies_and_apt_is_left_alone(stand_in_system: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for name in ("python3.9", "python3.11", "python3.11-config"):
        (own / "usr/bin").mkdir(parents=True, exist_ok=True)
        (own / "usr/bin" / name).touch()
    built = build_prefix(sysroot=own, cpus=["cortex-a53"])
    assert (built.folder / "root").resolve() == own
    assert built.manifest.sysroot == str(own)
    assert (built.folder / "venv/bin/python").resolve().name == "python3.11"
    assert not any(call[0].startswith("apt") for call in read_calls(stand_in_system))
    assert build_prefix(sysroot=own, cpus=["cortex-a53"]).new == build_prefix(cpus=["cortex-a53"]).new == ()


def test_a_sysroot_without_a_python_is_refused(stand_in_system: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"usr/bin/python3\.N"):
        build_prefix(sysroot=tmp_path / "empty")


def test_a_root_of_another_architecture_is_refused(stand_in_system: Path) -> None:
    facts = {"machine": "riscv64", "python": "3.11.2", "libc": "2.36", "hwcap": 0, "hwcap2": 0, "midr": 0}
    (stand_in_system / "guest.says").write_text(json.dumps(facts))
    with pytest.raises(UnavailableError, match="one for riscv64"):
        build_prefix(cpus=["cortex-a53"])


def test_without_qemu_on_the_path_one_is_unpacked_and_started_by_its_own_loader(
    stand_in_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbdeploy.targets.emulation.build.platform.machine", lambda: "x86_64")
    (stand_in_system / "qemu-aarch64").unlink()
    built = build_prefix(cpus=["a64fx"])
    own = built.folder / "qemu"
    assert sorted(path.name for path in (own / "usr/bin").iterdir()) == ["qemu-aarch64", "qemu-x86_64"]
    for program in ("qemu-aarch64", "qemu-x86_64"):
        assert emulator.find_emulator((program,), built.folder) == (
            str(own / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
            "--library-path",
            str(own / "lib/x86_64-linux-gnu"),
            str(own / "usr/bin" / program),
        )
    assert "qemu-user_1.0.deb" in {one.file for one in built.manifest.fetched}


def test_a_cpu_that_this_qemu_cannot_be_is_refused_with_those_it_can(stand_in_system: Path) -> None:
    with pytest.raises(UsageError, match="cortex-a53, cortex-a76, a64fx"):
        build_prefix(cpus=["cortex-m0"])


def test_what_a_killed_set_up_left_is_cleared_away(stand_in_system: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache/mbdeploy/qemu/.aarch64-onnxruntime-1.2.3.77.mbdeploy-tmp"
    left.mkdir(parents=True)
    build_prefix(cpus=["cortex-a53"])
    assert not left.exists()


def test_a_prefix_that_was_moved_is_none(stand_in_system: Path, tmp_path: Path) -> None:
    folder = build_prefix(cpus=["cortex-a53"]).folder
    folder.rename(tmp_path / "moved")
    assert read_manifest(tmp_path / "moved") is None
    assert read_manifest(folder) is None


def test_a_folder_whose_manifest_cannot_be_read_is_built_again(stand_in_system: Path) -> None:
    folder = build_prefix(cpus=["cortex-a53"]).folder
    (folder / "manifest.json").write_text("{}")
    assert read_manifest(folder) is None
    build_prefix(cpus=["cortex-a53"])
    assert read_manifest(folder) is not None


@pytest.mark.parametrize(("given", "root"), [("/x/cache", "/x/cache/mbdeploy"), ("here", "/home/u/.cache/mbdeploy")])
def test_the_cache_is_where_xdg_says_unless_that_is_relative(
    monkeypatch: pytest.MonkeyPatch, given: str, root: str
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert cache_root() == Path(root)
    assert find_prefix("1.2.3") == Path(root) / "qemu" / "aarch64-onnxruntime-1.2.3"


def test_the_cpuinfo_of_a_cortex_a53_is_as_linux_writes_it() -> None:
    assert describe_cpu(A53).splitlines() == [
        "processor\t: 0",
        "BogoMIPS\t: 100.00",
        "Features\t: fp asimd aes pmull sha1 sha2 crc32 cpuid",
        "CPU implementer\t: 0x41",
        "CPU architecture: 8",
        "CPU variant\t: 0x0",
        "CPU part\t: 0xd03",
        "CPU revision\t: 4",
        "",
    ]


def test_features_of_the_second_word_follow_those_of_the_first() -> None:
    bits = Guest(machine="aarch64", python="3", libc="2", hwcap=1 << 20 | 1 << 22, hwcap2=1 << 1 | 1 << 13, midr=0)
    assert "Features\t: asimddp sve sve2 i8mm\n" in describe_cpu(bits)


def test_the_command_keeps_this_machines_libraries_and_packages_out(tmp_path: Path) -> None:
    command = compose_command(("qemu-aarch64",), "cortex-a53", tmp_path, tmp_path / "view")
    python = str(tmp_path / "venv/bin/python")
    view = str(tmp_path / "view")
    assert command == ("qemu-aarch64", "-cpu", "cortex-a53", "-L", view, "-U", "LD_LIBRARY_PATH", python, "-I")


@pytest.mark.parametrize(
    "text",
    [
        "x86 486   (alias)\nx86 Haswell-v4   Intel Core\n\nRecognized CPUID flags:\n  3dnow abm\n",
        "Available CPUs:\n  486   (alias)\n  Haswell-v4   Intel Core\n\nRecognized CPUID flags:\n  3dnow abm\n",
    ],
    ids=["older", "newer"],
)
def test_cpus_are_read_from_the_lists_of_older_and_newer_emulators(
    tmp_path: Path, text: str, make_program: Callable[[str], Path]
) -> None:
    assert emulator.list_cpus([str(make_program(text))]) == ["486", "Haswell-v4"]


@pytest.fixture
def make_program(tmp_path: Path) -> Callable[[str], Path]:
    def make(says: str) -> Path:
        (tmp_path / "says").write_text(says)
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\ncat '{tmp_path}/says'\nexit 1\n")
        program.chmod(0o755)
        return program

    return make


def test_an_emulator_that_says_no_version_is_refused(make_program: Callable[[str], Path]) -> None:
    with pytest.raises(UnavailableError, match="does not say its version"):
        emulator.read_version([str(make_program("qemu"))])
