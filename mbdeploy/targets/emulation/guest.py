"""What an emulated CPU says of itself, and the Python on it: a program for inside the emulator, standard library only.

It prints one JSON object. /proc/cpuinfo is not read: it is written from this.
"""

import ctypes
import json
import mmap
import platform
import sys

AT_HWCAP, AT_HWCAP2 = 16, 26  # of getauxval(3)
CODE = bytes.fromhex("000038d5 c0035fd6")  # mrs x0, midr_el1; ret


def read_midr() -> int:
    """The main ID register: implementer, variant, part, revision. Linux lets programs read it, and so does qemu."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(CODE)
    return int(ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())


def main() -> None:
    library = ctypes.CDLL(None)
    library.getauxval.restype = ctypes.c_ulong
    library.getauxval.argtypes = [ctypes.c_ulong]
    facts = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libc": platform.libc_ver()[1],
        "hwcap": library.getauxval(AT_HWCAP),
        "hwcap2": library.getauxval(AT_HWCAP2),
        "midr": read_midr(),
    }
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
