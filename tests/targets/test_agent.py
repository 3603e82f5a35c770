"""The agent as a program, and the arithmetic in it."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from mbdeploy.errors import StepError, UnavailableError, UsageError
from mbdeploy.targets import Answer, Job, Session, agent, open_target, parse_provider

CPU = "CPUExecutionProvider"
RunJob = Callable[[Job], Answer]
SOURCE = Path(agent.__file__).read_text(encoding="utf-8")


@pytest.fixture
def run_local() -> RunJob:
    return open_target(parse_provider("cpu")).run


def test_the_agent_is_python_3_9() -> None:
    ast.parse(SOURCE, feature_version=(3, 9))


def test_the_agent_imports_nothing_but_the_standard_library_numpy_and_a_runtime() -> None:
    names = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "openvino"}


def test_runtimes_are_imported_only_where_they_are_asked_for() -> None:
    top = {alias.name for node in ast.parse(SOURCE).body if isinstance(node, ast.Import) for alias in node.names}
    assert not top & {"onnxruntime", "openvino"}


@pytest.mark.parametrize(
    ("shape", "descr", "found"),
    [
        ((2**40, 3, 4, 4), "<f4", "input.npy cannot be read"),
        ((1, 1, 2, 2), "|O", "input.npy cannot be read"),
        ((1, 1, 2, 2), "<f8", r"input.npy holds float64 \(1, 1, 2, 2\)"),
        ((4, 4), "<f4", r"input.npy holds float32 \(4, 4\)"),
    ],
)
def test_images_that_are_not_what_they_declare_are_refused_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], descr: str, found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("input.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        file.write(bytes(64))
    with pytest.raises(agent.RefusedError, match=found) as caught:
        agent.load_images()
    assert caught.value.kind == "rejected"


def test_a_fixed_batch_is_filled_up_and_the_filling_dropped(
    run_local: RunJob, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    sessions = tuple(
        Session(model=make_mean_model(f"{batch}.onnx", batch=batch), provider=CPU) for batch in (1, 4, 7, 9)
    )
    for ran in run_local(Job(kind="infer", sessions=sessions, inputs=images)).sessions:
        np.testing.assert_allclose(ran.outputs[0], 2 * images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


def test_all_outputs_come_in_the_graphs_order_with_the_settings_that_were_really_used(
    run_local: RunJob, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    config = {"session.intra_op.allow_spinning": "0"}
    session = Session(model=make_mean_model(outputs=2), provider=CPU, threads=2, session_config=config)
    ran = run_local(Job(kind="infer", sessions=(session,), inputs=images)).sessions[0]
    assert ran.output_names == ("y0", "y1")
    assert np.array_equal(ran.outputs[0], ran.outputs[1])
    assert (ran.settings["threads"], ran.settings["inter_op_threads"]) == (2, 1)
    assert ran.settings["session_config"] == {**config, "session.force_spinning_stop": "0"}


def test_a_listed_provider_that_takes_no_node_is_unavailable(
    run_local: RunJob, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    host = run_local(Job(kind="probe")).host
    if "AzureExecutionProvider" not in host.providers:
        pytest.skip("needs the Azure provider, which the wheels of ONNX Runtime carry, and which runs no Mul")
    session = Session(model=make_mean_model(), provider="AzureExecutionProvider")
    with pytest.raises(UnavailableError, match=r"(took|ran) no node of this model"):
        run_local(Job(kind="infer", sessions=(session,), inputs=images))


def test_a_graph_the_runtime_refuses_is_rejected_by_name(
    run_local: RunJob, write_model: Callable[..., Path], images: np.ndarray
) -> None:
    path = write_model([helper.make_node("NoSuchOperator", ["x"], ["y"])], "odd.onnx")
    with pytest.raises(StepError, match="REJECTED while loading") as caught:
        run_local(Job(kind="infer", sessions=(Session(model=path, provider=CPU),), inputs=images))
    assert caught.value.where == str(path)


def test_outputs_that_do_not_follow_the_batch_are_refused(
    run_local: RunJob, write_model: Callable[..., Path], images: np.ndarray
) -> None:
    path = write_model([helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)])
    with pytest.raises(StepError, match=r"output 'y' is .*, where the first axis has to be the batch, 7"):
        run_local(Job(kind="infer", sessions=(Session(model=path, provider=CPU),), inputs=images))


def test_a_dynamic_batch_that_is_none_is_refused_with_the_batch_it_failed_at(
    run_local: RunJob, write_model: Callable[..., Path], images: np.ndarray
) -> None:
    shape = np.array([1, 48], np.int64)
    path = write_model([helper.make_node("Reshape", ["x", "shape"], ["y"])], shape=shape)
    with pytest.raises(StepError, match=r"REJECTED while running.*batch of 7"):
        run_local(Job(kind="infer", sessions=(Session(model=path, provider=CPU),), inputs=images))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed_is_unavailable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(agent.RefusedError, match=f"{name} cannot be imported") as caught:
        agent.IMPORTS[name]()
    assert caught.value.kind == "unavailable"
    assert set(agent.IMPORTS) == set(agent.RUNTIMES)


@pytest.mark.slow
def test_a_session_that_may_fall_back_runs_on_the_cpu_and_says_why(
    run_local: RunJob, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    session = Session(model=make_mean_model(), provider="NoSuchExecutionProvider", allow_fallback=True)
    for job in (
        Job(kind="infer", sessions=(session,), inputs=images),
        Job(kind="bench", sessions=(session,), inputs=images, batch_size=1, warmup=0, min_duration_s=0, min_rounds=2),
        Job(kind="memory", sessions=(session,), inputs=images, batch_size=1),
    ):
        ran = run_local(job).sessions[0]
        assert "which does not have it" in ran.settings["fallback"]
    assert run_local(Job(kind="infer", sessions=(session,), inputs=images)).sessions[0].placement.nodes.keys() == {CPU}


def test_a_model_that_is_refused_does_not_fall_back(
    run_local: RunJob, write_model: Callable[..., Path], images: np.ndarray
) -> None:
    path = write_model([helper.make_node("NoSuchOperator", ["x"], ["y"])], "odd.onnx")
    session = Session(model=path, provider=CPU, allow_fallback=True)
    with pytest.raises(StepError, match="REJECTED while loading"):
        run_local(Job(kind="infer", sessions=(session,), inputs=images))


class Recorder:
    """An ONNX Runtime with a made-up device: it notes what is done to it, in order."""

    def __init__(self) -> None:
        self.notes: list[object] = []
        self.OrtValue = self

    def __getattr__(self, name: str) -> Callable[..., object]:
        def note(*arguments: object) -> object:
            self.notes.append((name, *[value for value in arguments if isinstance(value, (str, int))]))
            return self

        return note


def test_on_a_device_copies_lie_outside_the_timed_run_which_ends_synchronised() -> None:
    session = agent.OnnxRuntime.__new__(agent.OnnxRuntime)
    session._ort = session._session = ort = Recorder()
    session.device, session._input, session.output_names = "cuda", "x", ["y"]
    session.settings = {"provider_options": {"device_id": "1"}}
    times = agent.Times([session], [np.zeros((1, 3, 4, 4), np.float32)], clock=lambda: ort.notes.append("clock") or 0)
    times.add_round()
    assert ort.notes == [
        ("io_binding",),
        ("ortvalue_from_numpy", "cuda", 1),
        ("bind_ortvalue_input", "x"),
        ("bind_output", "y", "cuda", 1),
        ("synchronize_inputs",),
        "clock",
        ("run_with_iobinding",),
        ("synchronize_outputs",),
        "clock",
        ("copy_outputs_to_cpu",),
    ]
    assert len(times.copies[0]) == len(times.wall[0]) == 1 and times.copies[0][0] > 0


def test_on_the_host_there_are_no_copies(
    run_local: RunJob, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    session = Session(model=make_mean_model(), provider=CPU)
    job = Job(kind="bench", sessions=(session,), inputs=images, batch_size=1, warmup=0, min_duration_s=0, min_rounds=2)
    ran = run_local(job).sessions[0]
    assert ran.copy_ns == () and ran.settings["device"] == "cpu"


def test_a_node_that_ran_elsewhere_is_named(tmp_path: Path) -> None:
    facts = {"op_name": "Conv", "provider": "X", "node_index": "1", "input_type_shape": [{"float": [1]}, {"int8": []}]}
    event = {"cat": "Node", "name": "conv_kernel_time", "args": facts}
    other = {"cat": "Node", "name": "nms_kernel_time", "args": {"op_name": "Nms", "provider": CPU, "node_index": "2"}}
    fence = {"cat": "Node", "name": "conv_fence_before", "args": {}}
    profile = tmp_path / "profile.json"
    profile.write_text(str([event, event, other, fence, {"cat": "Session", "name": "run"}]).replace("'", '"'))
    session = agent.OnnxRuntime.__new__(agent.OnnxRuntime)
    session.provider = "X"
    session._session = SimpleNamespace(end_profiling=lambda: str(profile))
    assert session.read_placement() == {
        "nodes": {"X": 1, CPU: 1},
        "operators": {"Conv": 1, "Nms": 1},
        "elsewhere": ["Nms nms"],
        "ran": [("conv", "Conv", "X", "float32"), ("nms", "Nms", CPU, "")],
    }
    assert not profile.exists()


@given(st.integers(1, 6), st.integers(0, 20))
def test_every_round_runs_every_session_once_and_every_second_round_mirrors_the_one_before(
    count: int, pair: int
) -> None:
    first, second = agent.order_round(count, 2 * pair), agent.order_round(count, 2 * pair + 1)
    assert sorted(first) == list(range(count))
    assert second == first[::-1]


@given(st.integers(1, 6))
def test_over_all_rotations_every_session_takes_every_place_equally_often(count: int) -> None:
    rounds = [agent.order_round(count, number) for number in range(2 * count)]
    places = Counter((session, place) for order in rounds for place, session in enumerate(order))
    assert set(places.values()) == {2}


def test_times_are_steady_when_the_last_median_is_near_the_one_before() -> None:
    times = SimpleNamespace(rounds=10, wall=[[100] * 5 + [104] * 5, [50] * 10])
    assert agent.is_steady(times)
    times.wall[1] = [100] * 5 + [90] * 5
    assert not agent.is_steady(times)
    assert not agent.is_steady(SimpleNamespace(rounds=9, wall=[[100] * 9]))


class CountedRounds:
    """Rounds whose times fall by half each time, so that they are never steady."""

    def __init__(self) -> None:
        self.rounds = 0
        self.wall: list[list[float]] = [[]]

    def add_round(self) -> None:
        self.wall[0].append(1e9 / 2**self.rounds)
        self.rounds += 1


def test_a_given_warm_up_is_kept_to_even_if_it_is_none() -> None:
    for rounds in (0, 3):
        times = CountedRounds()
        agent.warm_up(times, rounds)  # type: ignore[arg-type]
        assert times.rounds == rounds


def test_a_warm_up_that_never_steadies_ends_after_its_longest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "LONGEST_S", 0.0)
    times = CountedRounds()
    agent.warm_up(times, None)  # type: ignore[arg-type]
    assert times.rounds == 2


@pytest.mark.parametrize(
    ("count", "size", "firsts"), [(7, 2, [0, 2, 4]), (3, 3, [0]), (2, 5, [0]), (4, 1, [0, 1, 2, 3])]
)
def test_batches_are_consecutive_and_too_few_images_are_repeated(count: int, size: int, firsts: list[int]) -> None:
    images = np.arange(count, dtype=np.float32).reshape(count, 1, 1, 1)
    batches = agent.cut_batches(images, size)
    assert [int(batch[0, 0, 0, 0]) for batch in batches] == firsts
    assert all(batch.shape == (size, 1, 1, 1) for batch in batches)


def test_a_cgroup_quota_is_the_tightest_one_on_the_way_up(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "3:cpu,cpuacct:/a/b\n2:memory:/a\n0::/x\n",
        "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n",
        "/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n",
        "/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/cpu.max": "max 100000\n",
        "/sys/fs/cgroup/x/cpu.max": "300000 100000\n",
    }
    monkeypatch.setattr(agent, "read_text", lambda path: files.get(path, ""))
    assert agent.read_cgroup_cores() == 1.5
    files.clear()
    assert agent.read_cgroup_cores() is None


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"NO_SUCH_PROPERTY": "1"}, {"INFERENCE_PRECISION_HINT": "f33"}])
def test_a_property_that_openvino_does_not_know_is_no_fault_of_the_model(
    options: dict[str, str],
    run_local: RunJob,
    make_mean_model: Callable[..., Path],
    images: np.ndarray,
    real_openvino: None,
) -> None:
    session = Session(model=make_mean_model(), provider="OpenVINO", runtime="openvino", provider_options=options)
    with pytest.raises(UsageError, match=f"OpenVINO: expected options that it knows.*{next(iter(options))}"):
        run_local(Job(kind="infer", sessions=(session,), inputs=images))


@pytest.mark.slow
def test_openvinos_instruction_set_is_recorded_and_one_for_the_whole_process(
    run_local: RunJob, make_mean_model: Callable[..., Path], images: np.ndarray, real_openvino: None
) -> None:
    narrow = Session(
        model=make_mean_model(), provider="OpenVINO", runtime="openvino", provider_options={agent.ISA: "SSE41"}
    )
    ran = run_local(Job(kind="infer", sessions=(narrow, narrow), inputs=images)).sessions[1]
    assert ran.settings["provider_options"][agent.ISA] == "SSE41"
    wide = msgspec.structs.replace(narrow, provider_options={})
    with pytest.raises(UsageError, match=r"ONEDNN_MAX_CPU_ISA=.* in the same process"):
        run_local(Job(kind="infer", sessions=(narrow, wide), inputs=images))


class Idle:
    """A session that takes no time."""

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        return []


@pytest.fixture
def make_sensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Sensors in a folder of the test's own, as Linux shows them; none before the first is made."""
    monkeypatch.setattr(agent, "POWERCAP", str(tmp_path / "powercap"))
    monkeypatch.setattr(agent, "HWMON", str(tmp_path / "hwmon"))
    monkeypatch.setattr(agent, "ENERGY_S", 0.0)

    def make(place: str, **files: object) -> Path:
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")
        return folder

    return make


def test_without_a_sensor_there_is_no_energy(make_sensor: Callable[..., Path]) -> None:
    make_sensor("hwmon/hwmon0", name="coretemp", power1_input=5)
    settings: dict[str, object] = {}
    assert agent.measure_energy(Idle(), [np.zeros(1)], settings) == {} == settings


def test_energy_is_what_the_packages_counted_also_over_the_counter_s_end(
    make_sensor: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_sensor("powercap/intel-rapl:0", name="package-0", energy_uj=990, max_energy_range_uj=999)
    make_sensor("powercap/intel-rapl:0:0", name="core", energy_uj=1, max_energy_range_uj=999)
    make_sensor("powercap/intel-rapl:1", name="psys", energy_uj=1, max_energy_range_uj=999)
    monkeypatch.setattr(Idle, "run", lambda self, images: (whole / "energy_uj").write_text("40"))
    settings: dict[str, object] = {}
    assert agent.measure_energy(Idle(), [np.zeros(1)], settings) == {"energy_uj": 50, "energy_runs": 2}
    assert settings == {"energy_sensors": [str(whole / "energy_uj")]}


def test_power_is_added_up_over_the_time_of_each_run(
    make_sensor: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = make_sensor("hwmon/hwmon3", name="ina219", power1_input=3_000_000)
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(agent.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(agent, "ENERGY_S", 1.0)
    settings: dict[str, object] = {}
    found = agent.measure_energy(Idle(), [np.zeros(1)], settings)
    assert found == {"energy_uj": 2 * 2 * 3_000_000, "energy_runs": 2}
    assert settings == {"energy_sensors": [str(chip / "power1_input")]}
