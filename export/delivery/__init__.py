"""What is handed on. In: a run's export. Out: a bundle for a deployer, or a repository on the Hugging Face Hub."""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.delivery.bundle import Recommended, make_bundle, read_manifest, verify_bundle
    from export.delivery.hub import push_run

__all__ = ["Recommended", "make_bundle", "push_run", "read_manifest", "verify_bundle"]

_HOMES = {**dict.fromkeys(__all__, "export.delivery.bundle"), "push_run": "export.delivery.hub"}
__getattr__ = hand_on(__name__, _HOMES)
