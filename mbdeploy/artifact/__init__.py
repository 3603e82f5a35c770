"""Files that stages make: written whole, vouched for by sidecars, made again only where they are not fresh."""

from mbdeploy.artifact.atomic import lending_folder, lock_folder, write_bytes, writing
from mbdeploy.artifact.sidecars import (
    Provenance,
    Sidecar,
    check_digest,
    decode_saved,
    digest_file,
    hash_file,
    is_fresh,
    keep_result,
    move_made,
    read_result,
    read_sidecar,
    read_tools,
    sidecar_path,
    write_json,
    write_result,
    write_sidecar,
)

__all__ = [
    "Provenance",
    "Sidecar",
    "check_digest",
    "decode_saved",
    "digest_file",
    "hash_file",
    "is_fresh",
    "keep_result",
    "lending_folder",
    "lock_folder",
    "move_made",
    "read_result",
    "read_sidecar",
    "read_tools",
    "sidecar_path",
    "write_bytes",
    "write_json",
    "write_result",
    "write_sidecar",
    "writing",
]
