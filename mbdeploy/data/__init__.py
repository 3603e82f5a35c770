"""Users' images become preprocessed batches: for calibration, golden inputs and evaluation."""

from mbdeploy.data.batches import Batch, load_arrays, load_batches
from mbdeploy.data.images import prepare_image
from mbdeploy.data.presets import load_labels, resolve_preprocess
from mbdeploy.data.samples import Dataset, Sample
from mbdeploy.data.sources import find_data, is_manifest, name_path, open_dataset, settle_quantization

__all__ = [
    "Batch",
    "Dataset",
    "Sample",
    "find_data",
    "is_manifest",
    "load_arrays",
    "load_batches",
    "load_labels",
    "name_path",
    "open_dataset",
    "prepare_image",
    "resolve_preprocess",
    "settle_quantization",
]
