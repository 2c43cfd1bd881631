"""What is handed on. In: a run's export. Out: a bundle for a deployer, or a repository on the Hugging Face Hub."""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.delivery.bundle import Recommended, make_bundle
    from export.delivery.hub import push_run
    from export.delivery.manifest import read_manifest
    from export.delivery.verify import verify_bundle

__all__ = ["Recommended", "make_bundle", "push_run", "read_manifest", "verify_bundle"]

_HOMES = {
    "Recommended": "export.delivery.bundle",
    "make_bundle": "export.delivery.bundle",
    "push_run": "export.delivery.hub",
    "read_manifest": "export.delivery.manifest",
    "verify_bundle": "export.delivery.verify",
}
__getattr__ = hand_on(__name__, _HOMES)
