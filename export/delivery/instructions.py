"""Which instructions of a processor decide how fast a model is, and which of them are lacking here."""

from collections.abc import Sequence

from export.records import BundleManifest

INSTRUCTIONS = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
"""As Linux names them, on x86 and on ARM."""


def lacking(manifest: BundleManifest, here: tuple[str, Sequence[str]]) -> str:
    """What a deployer should know of the processor at hand; empty where it has all that the bundle was measured with.

    Args:
        manifest: of the bundle.
        here: the name and the flags of the processor. Without flags nothing is known.
    """
    name, flags = here
    missing = [flag for flag in manifest.cpu_flags if flag not in flags]
    if not flags or not missing:
        return ""
    return (
        f"this CPU ({name}) lacks {', '.join(missing)}, which the one that the bundle was measured on has "
        f"({manifest.cpu}): latencies differ, and another file or runtime may be the fastest here"
    )
