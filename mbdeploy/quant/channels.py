"""Which activations of a graph share their channels, and where channels of zeros may stand among them.

A *space* is a set of activations with the same channels in the same places: what a depthwise layer reads and what it
writes, all that goes into a sum. A Concat makes a space of others, whose channels stand one after another in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

#: Runs of channels as they were, each with the number of zeros that are added behind it.
Layout = tuple[tuple[int, int], ...]


class Spaces:
    """Activations in spaces (a union-find over names), and what each Concat is made of."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}
        self._parts: dict[str, tuple[str, ...]] = {}
        self._seen: set[str] = set()

    def find(self, name: str) -> str:
        """The name that stands for an activation's space."""
        root = name
        while root in self._above:
            root = self._above[root]
        while name != root:
            self._above[name], name = root, self._above[name]
        return root

    def join(self, first: str, second: str) -> None:
        """Say that two activations share their channels, and with them what both are made of."""
        first, second = self.find(first), self.find(second)
        if first != second:
            self._above[first] = second
            if first in self._parts:
                self.compose(second, self._parts.pop(first))

    def compose(self, name: str, parts: Sequence[str]) -> None:
        """Say that an activation's channels are those of others, one after another."""
        known = self._parts.setdefault(self.find(name), tuple(parts))
        if len(known) != len(parts):
            self.show((name, *parts))
            return
        for one, other in zip(known, parts, strict=True):
            self.join(one, other)

    def show(self, names: Iterable[str]) -> None:
        """Say that somebody sees the channels of these activations one by one."""
        self._seen.update(names)

    def list_atoms(self, name: str) -> tuple[str, ...]:
        """The spaces, made of no others, whose channels an activation has, in order; one may come twice."""
        return self._unfold(self.find(name), ())

    def _unfold(self, space: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if space in above:  # a Concat that is added to its own part, which it is broadcast over
            self._seen.add(space)
            return ()
        parts = self._parts.get(space)
        if parts is None:
            return (space,)
        return tuple(atom for part in parts for atom in self._unfold(self.find(part), (*above, space)))

    def measure(self, widths: Iterable[tuple[str, int, int]]) -> dict[str, int]:
        """The channels of each space, where all layers that read or write it agree: (activation, channels, rank)."""
        found: dict[str, set[tuple[int, int]]] = {}
        for name, channels, rank in widths:
            found.setdefault(self.find(name), set()).add((channels, rank))
        self._seen.update(space for space, sizes in found.items() if len(sizes) > 1)  # one is broadcast over the other
        return {space: min(sizes)[0] for space, sizes in found.items()}

    def list_open(self, channels: Mapping[str, int]) -> set[str]:
        """The atoms that zeros may be added to, given what ``measure`` found.

        Rules: not 1. what somebody sees, nor what it is made of; 2. what is in a Concat of which a part has no known
        channels, or whose layers know of more than its parts have.
        """
        shut = {atom for name in self._seen for atom in self.list_atoms(name)}
        for space in {self.find(name) for name in self._parts}:
            inside = self.list_atoms(space)
            whole = sum(channels.get(atom, 0) for atom in inside)
            if not channels.keys() >= {*inside} or channels.get(space, whole) != whole:
                shut.update(inside)
        return {space for space in channels if self.list_atoms(space) == (space,)} - shut

    def lay_out(self, name: str, channels: Mapping[str, int], added: Mapping[str, int]) -> Layout:
        """Where an activation's channels go if so many zeros are added to open atoms; empty if all of them stay."""
        atoms = self.list_atoms(name)
        if not any(added.get(atom) for atom in atoms):
            return ()
        return tuple((channels[atom], added.get(atom, 0)) for atom in atoms)
