"""Where the checkout is, and what lies in it or beside it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real pictures, where a machine has them; tests that need them skip elsewhere."""
UNPACK = SHARED_DATA / "unpack.py"
SHARED_WEIGHTS = ROOT.parent / "shared" / "weights"
"""Real weights that timm publishes, in the same way."""
