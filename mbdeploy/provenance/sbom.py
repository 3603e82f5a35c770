"""What is installed, as a CycloneDX document: the software bill of materials of an environment."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Any

#: The licences that distributions state as free text and not as an SPDX expression are kept as text, up to this.
_LONGEST_NAME = 200
_SPDX = re.compile(r"[\w.+-]+(?: (?:AND|OR|WITH) [\w.+-]+)*")


def describe_environment(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, Any]:
    """A CycloneDX 1.5 document (JSON) of every distribution that this Python can import.

    Rules: 1. components are sorted by name and the first of a name is taken, as Python's import does. 2. There is no
    time in it, and the serial number is drawn from the components: equal environments give equal bytes. 3. A licence
    stands where the distribution's own metadata states one.
    """
    found: dict[str, dict[str, Any]] = {}
    for distribution in metadata.distributions() if distributions is None else distributions:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name not in found:
            found[name] = _describe(name, distribution)
    components = [found[name] for name in sorted(found)]
    digest = hashlib.sha256(repr(components).encode()).digest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=4)}",
        "version": 1,
        "components": components,
    }


def _describe(name: str, distribution: metadata.Distribution) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{distribution.version.replace('+', '%2B')}"
    licences = list(_list_licences(distribution))
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": distribution.version,
        "purl": purl,
        **({"licenses": licences} if licences else {}),
    }


def _list_licences(distribution: metadata.Distribution) -> Iterator[dict[str, Any]]:
    """The licence that the metadata states: the expression, else the field, else the classifiers."""
    expression = _read(distribution, "License-Expression")
    if expression and _SPDX.fullmatch(expression.replace("(", "").replace(")", "")):
        yield {"expression": expression}
        return
    text = _read(distribution, "License").strip()
    if text and text != "UNKNOWN" and len(text) <= _LONGEST_NAME and "\n" not in text:
        yield {"license": {"name": text}}
        return
    for classifier in sorted(set(distribution.metadata.get_all("Classifier") or ())):
        if classifier.startswith("License :: ") and classifier.rpartition(" :: ")[2] != "OSI Approved":
            yield {"license": {"name": classifier.rpartition(" :: ")[2]}}


def _read(distribution: metadata.Distribution, field: str) -> str:
    return str(distribution.metadata[field]) if field in distribution.metadata else ""
