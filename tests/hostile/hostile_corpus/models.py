"""All hostile models, in one list."""

from __future__ import annotations

from hostile_corpus import attributes, control, external, protobuf, scales, tensors
from hostile_corpus.building import Item

ITEMS: list[Item] = [
    one for room in (protobuf, tensors, attributes, control, external, scales) for one in room.list_items()
]
