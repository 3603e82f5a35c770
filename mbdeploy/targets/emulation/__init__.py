"""An arm64 Python with ONNX Runtime for qemu's user emulation: built once in the cache, used by ``targets/qemu.py``."""

from mbdeploy.targets.emulation.build import Built, build_prefix
from mbdeploy.targets.emulation.prefix import CPUS, Manifest, find_prefix

__all__ = ["CPUS", "Built", "Manifest", "build_prefix", "find_prefix"]
