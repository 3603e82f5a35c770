"""Preflight: what is looked at in a model file from a stranger before any native parser sees it.

A file that fails is refused with a ModelError in one line, which names the limit's option where there is one
(:mod:`mbdeploy.bounds`). What passes can still crash a library: that is what :mod:`mbdeploy.isolate` is for.
"""

from __future__ import annotations

from mbdeploy.preflight.archives import check_archive
from mbdeploy.preflight.external import check_file, copying
from mbdeploy.preflight.opening import Checked, check_graph, check_model
from mbdeploy.preflight.wire import scan_wire

__all__ = ["Checked", "check_archive", "check_file", "check_graph", "check_model", "copying", "scan_wire"]
