"""A real board behind a real proxy: OpenSSH on loopback, a Dask scheduler, and the answers of this machine."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from boards import serving_board
from clusters import DASK, Cluster

from mbdeploy.errors import UnavailableError
from mbdeploy.executing.proxy import plan_worker
from mbdeploy.stages.evaluate import evaluate

pytestmark = [*DASK, pytest.mark.ssh, pytest.mark.sweep]


def test_a_board_s_proxy_gives_what_this_machine_gives_and_leaves_nothing_there(
    conv_model_file: Path, make_photos: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photos(tmp_path / "images", count=6)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"images/{name},0\n" for name in names))
    asked = {"data": str(tmp_path / "labels.csv"), "preprocess": "unit"}
    near = evaluate([conv_model_file], **asked)  # type: ignore[arg-type]
    with serving_board(tmp_path / "board") as board:
        monkeypatch.setenv("PATH", f"{board.write_client()}{os.pathsep}{os.environ['PATH']}")
        word = f"cpu@ssh:{getpass.getuser()}@127.0.0.1:{board.port}"
        with contextlib.closing(Cluster(tmp_path)) as cluster:
            cluster.start_node()
            shared = {**asked, "provider": word, "cluster": cluster.address, "store": tmp_path / "store"}
            with pytest.raises(UnavailableError, match="the resource dev_127_0_0_1_"):
                evaluate([conv_model_file], shard_size=32, **shared)  # type: ignore[arg-type]
            cluster.start_node(plan_worker(cluster.address, provider=word))
            far = evaluate([conv_model_file], shard_size=32, **shared)  # type: ignore[arg-type]
    assert far.models[0].provider == word and len(list((tmp_path / "store").rglob("*.json"))) == 1
    assert far.models[0].predictions == near.models[0].predictions and len(near.models[0].predictions) == 6
    assert msgspec.structs.replace(far.host, versions={}) == msgspec.structs.replace(near.host, versions={})
