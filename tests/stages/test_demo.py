"""Photographs through two models: the classes each one names, and what the table says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from mbdeploy import model_file
from mbdeploy.card import Preprocess
from mbdeploy.errors import ModelError
from mbdeploy.stages.demo import Guess, Shown, classify_photos, tabulate_photos


def test_every_photograph_gets_the_best_classes_of_every_model(
    tmp_path: Path, photo_folder: Path, make_conv_model: Callable[..., onnx.ModelProto]
) -> None:
    paths = []
    for seed in (0, 1):
        model = make_conv_model(seed=seed)
        preprocess = model_file.dump_json(Preprocess(size=16))
        model_file.write_metadata(model, {"mbdeploy.preprocess": preprocess})
        paths.append(tmp_path / f"{seed}.onnx")
        model_file.save_model(model, paths[-1])
    shown = classify_photos([*paths, paths[0]], photos=str(photo_folder), split=None, top=2)
    assert [one.photo for one in shown] == [f"photo_{index}.png" for index in range(6)]
    for one in shown:
        first, second, again = one.guesses
        assert first == again != second
        assert len(first) == 2
        assert 1 >= first[0].probability >= first[1].probability > 0
        assert first[0].label.startswith("class ")


def test_a_file_that_does_not_say_its_preprocessing_is_refused(conv_model_file: Path) -> None:
    with pytest.raises(ModelError, match="expected preprocessing in the file"):
        classify_photos([conv_model_file])


def test_a_network_that_is_no_classifier_is_refused(
    tmp_path: Path, photo_folder: Path, make_conv_model: Callable[..., onnx.ModelProto]
) -> None:
    model = make_conv_model()
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["batch", 8, 16, 16])
    )
    model_file.write_metadata(model, {"mbdeploy.preprocess": model_file.dump_json(Preprocess(size=16))})
    model_file.save_model(model, tmp_path / "segment.onnx")
    with pytest.raises(ModelError, match=r"expected a classifier.*found outputs \[6, 8, 16, 16\]"):
        classify_photos([tmp_path / "segment.onnx"], photos=str(photo_folder), split=None)


def test_the_table_has_one_column_a_model_and_counts_the_same_best_classes() -> None:
    cat, dog = Guess(label="tabby, tabby cat", probability=0.625), Guess(label="beagle", probability=0.25)
    shown = [
        Shown(photo="a.png", guesses=((cat, dog), (cat, dog))),
        Shown(photo="b.png", guesses=((cat, dog), (dog, cat))),
    ]
    table = tabulate_photos(shown, ("FP32", "INT8"))
    assert table.columns == ("photograph", "FP32", "INT8")
    assert table.rows == (
        ("a.png", " 62 %  tabby", " 62 %  tabby"),
        ("", " 25 %  beagle", " 25 %  beagle"),
        ("b.png", " 62 %  tabby", " 25 %  beagle"),
        ("", " 25 %  beagle", " 62 %  tabby"),
    )
    assert table.notes[0].startswith("The same best class in 1 of 2 photographs.")
