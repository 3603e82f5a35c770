"""The bill of materials: what is installed, in CycloneDX's words, the same bytes for the same environment."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mbdeploy.provenance.sbom import describe_environment


def install(folder: Path, name: str, version: str, *fields: str) -> metadata.Distribution:
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *fields])
    )
    return metadata.Distribution.at(place)


@pytest.mark.parametrize(
    ("fields", "licences"),
    [
        (
            ("License-Expression: MIT AND (Apache-2.0 OR BSD-2-Clause)",),
            [{"expression": "MIT AND (Apache-2.0 OR BSD-2-Clause)"}],
        ),
        (("License: BSD",), [{"license": {"name": "BSD"}}]),
        (
            ("License: UNKNOWN", "Classifier: License :: OSI Approved :: MIT License", "Classifier: Topic :: Software"),
            [{"license": {"name": "MIT License"}}],
        ),
        (("License: " + "x" * 300,), None),
        ((), None),
    ],
)
def test_a_component_has_its_name_version_purl_and_the_licence_that_it_states(
    tmp_path: Path, fields: tuple[str, ...], licences: object
) -> None:
    (found,) = describe_environment([install(tmp_path, "Some_Thing.x", "1.0+cpu", *fields)])["components"]
    assert (found["name"], found["version"]) == ("some-thing-x", "1.0+cpu")
    assert found["purl"] == found["bom-ref"] == "pkg:pypi/some-thing-x@1.0%2Bcpu"
    assert found.get("licenses") == licences


def test_order_does_not_matter_and_the_first_of_a_name_is_what_python_imports(tmp_path: Path) -> None:
    first, second = install(tmp_path / "1", "a", "1"), install(tmp_path / "2", "b", "1")
    shadowed = install(tmp_path / "3", "A", "2")
    sbom = describe_environment([first, second, shadowed])
    assert sbom == describe_environment([second, first])
    assert [one["version"] for one in sbom["components"]] == ["1", "1"]
    assert sbom["serialNumber"] != describe_environment([second])["serialNumber"]


def test_the_document_is_cyclonedx_and_lists_this_environment() -> None:
    sbom = describe_environment()
    assert (sbom["bomFormat"], sbom["specVersion"], sbom["version"]) == ("CycloneDX", "1.5", 1)
    uuid = r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"  # as its schema says
    assert re.fullmatch(uuid, sbom["serialNumber"])
    names = [one["name"] for one in sbom["components"]]
    assert names == sorted(set(names)) and {"onnx", "numpy", "msgspec"} <= set(names)
    assert len({one["bom-ref"] for one in sbom["components"]}) == len(names)
    assert sys.prefix not in repr(sbom)
