"""Session options of ONNX Runtime that matter for speed, as a table, and the Python code that uses a set of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from mbdeploy.isolate import Progress
from mbdeploy.targets.job import Session

Format = Literal["onnx", "ort"]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to change of a session's defaults; of one ``group`` only one can be.

    ``level`` is the graph optimisation level, ``file`` the format of a file that was optimised before.
    """

    name: str
    group: str
    level: Literal["none", "basic", "extended", "all"] = "all"
    file: Format | None = None
    arena: bool = True
    config: Mapping[str, str] = {}
    needs_threads: bool = False


OPTIONS = (
    Option(name="extended", group="graph", level="extended"),
    Option(name="basic", group="graph", level="basic"),
    Option(name="none", group="graph", level="none"),
    Option(name="optimised file", group="graph", file="onnx"),
    Option(name="ORT format", group="graph", file="ort"),
    Option(name="no arena", group="arena", arena=False),
    Option(
        name="no spinning",
        group="spinning",
        config={"session.intra_op.allow_spinning": "0"},
        needs_threads=True,
    ),
)
DEFAULTS = "defaults"
_LEVELS = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
#: What interleaving needs and a deployment does not.
_ONLY_HERE = "session.force_spinning_stop"


def list_options(threads: int) -> list[Option]:
    """The options that change anything with so many threads."""
    return [option for option in OPTIONS if threads > 1 or not option.needs_threads]


def apply_options(session: Session, options: Sequence[Option], files: Mapping[Format, Path]) -> Session:
    """The session with these options; a file that is optimised already is loaded without optimising it again."""
    for option in options:
        session = msgspec.structs.replace(
            session,
            optimization=option.level if option.level != "all" else session.optimization,
            arena=session.arena and option.arena,
            session_config={**session.session_config, **option.config},
        )
        if option.file is not None:
            config = {"session.load_model_format": "ORT"} if option.file == "ort" else {}
            session = msgspec.structs.replace(
                session,
                model=files[option.file],
                companions=(),
                optimization="none",
                session_config={**session.session_config, **config},
            )
    return session


def combine_options(faster: Sequence[tuple[float, Option]]) -> list[Option]:
    """Of (ratio, option) the fastest of each group."""
    best: dict[str, Option] = {}
    for _, option in sorted(faster, key=lambda pair: pair[0]):
        best.setdefault(option.group, option)
    return list(best.values())


def name_options(options: Sequence[Option]) -> str:
    """What a row is called."""
    return " + ".join(option.name for option in options) or DEFAULTS


def save_optimised(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Write ``request["model"]`` as its provider optimises it here, to ``request["output"]``; runs in a child."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = request["output"]
    for key, value in request["session_config"].items():
        options.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(
        request["model"], options, providers=[(request["provider"], request["provider_options"])]
    )
    return {"size_bytes": Path(request["output"]).stat().st_size}


def write_code(session: Session, options: Sequence[Option], model: str) -> str:
    """Python that opens ``model`` as ``session`` was, without anything of ours."""
    file = next((option.file for option in options if option.file), None)
    made = f"{Path(model).stem}.optimised.{file}" if file else model
    providers = [(session.provider, session.provider_options)] if session.provider_options else [session.provider]
    lines = ["import onnxruntime as ort", ""]
    if file:
        lines += [
            "# Once, on the machine that will run it: the file holds what that CPU's kernels want.",
            "making = ort.SessionOptions()",
            f"making.optimized_model_filepath = {made!r}",
            *(['making.add_session_config_entry("session.save_model_format", "ORT")'] if file == "ort" else []),
            f"ort.InferenceSession({model!r}, making, providers={providers!r})",
            "",
        ]
    lines += [
        "options = ort.SessionOptions()",
        f"options.intra_op_num_threads = {session.threads}",
        "options.inter_op_num_threads = 1",
        f"options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_{_LEVELS[session.optimization]}",
        *([] if session.arena else ["options.enable_cpu_mem_arena = False"]),
        *(
            f"options.add_session_config_entry({key!r}, {value!r})"
            for key, value in session.session_config.items()
            if key != _ONLY_HERE
        ),
        f"session = ort.InferenceSession({made!r}, options, providers={providers!r})",
    ]
    return "\n".join(lines) + "\n"
