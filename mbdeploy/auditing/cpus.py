"""CPUS: which products of 8-bit numbers go wrong on which CPU, as data, with where it is written down.

Everything here is about ONNX Runtime's CPU provider (its kernels, MLAS), read in version 1.31's source.
"""

from __future__ import annotations

from typing import Literal

import msgspec

#: ``pairs``: u8 x s8 products of two neighbours are added in int16 and saturate (vpmaddubsw).
#: ``twins``: s8 x s8 products of two terms are added in int16 and wrap, for twice -128 x -128 only (smull, smlal).
Hazard = Literal["pairs", "twins", ""]

#: Kinds of product. Activations of s8 in Q/DQ pairs become u8 when ONNX Runtime loads the file on x86
#: (QDQS8ToU8Transformer, wherever one node reads the tensor), in QOperator files they stay what they are.
#: ConvInteger has its weights on the left (conv_integer.cc), where s8 by u8 has no kernel but the portable one.
KINDS = ("u8s8", "s8s8 in Q/DQ", "s8s8 in QOperator", "u8u8", "u8s8 in ConvInteger")


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """A family of CPUs: the hazard of each kind of product, in the order of ``KINDS``, and the source."""

    name: str
    hazards: tuple[Hazard, Hazard, Hazard, Hazard, Hazard]
    source: str


CPUS: tuple[Cpu, ...] = (
    Cpu(
        name="x86 with AVX2",
        hazards=("pairs", "pairs", "", "", ""),
        source="mlas/lib/platform.cpp: MlasGemmU8S8KernelAvx2 and MlasConvSymKernelAvx2 use vpmaddubsw; U8U8 widens "
        "to 16 bits first; S8S8 has only the portable kernel, which adds in 32 bits",
    ),
    Cpu(
        name="x86 with AVX-512, no VNNI",
        hazards=("pairs", "pairs", "", "", ""),
        source="mlas/lib/platform.cpp: MlasGemmU8S8KernelAvx512Core, the same instructions on wider registers",
    ),
    Cpu(
        name="x86 with VNNI or AMX",
        hazards=("", "", "", "", ""),
        source="mlas/lib/platform.cpp: vpdpbusd(s) (AVX-VNNI, AVX-512 VNNI) and tdpbusd (AMX) add in 32 bits",
    ),
    Cpu(
        name="ARM without dot product",
        hazards=("twins", "twins", "twins", "", ""),
        source="mlas/lib/aarch64/ConvSymS8KernelNeon.S: smull, smlal, then sadalp; u8 activations are shifted to s8 "
        "(MlasConvSymFixupInputZeroPoint)",
    ),
    Cpu(
        name="ARM with dot product or i8mm",
        hazards=("", "", "", "", ""),
        source="mlas/lib/platform.cpp: sdot, udot, smmla and ummla add four or eight products in 32 bits",
    ),
)


def find_hazards(kind: str) -> dict[str, Hazard]:
    """By CPU, what can go wrong with products of one of ``KINDS``; nothing for other types (16 bits, unknown)."""
    if kind not in KINDS:
        return {cpu.name: "" for cpu in CPUS}
    return {cpu.name: cpu.hazards[KINDS.index(kind)] for cpu in CPUS}
