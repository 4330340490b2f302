import sys
from pathlib import Path

# Their federations are those of the other tests, with processes that know how to die.
sys.path.insert(0, str(Path(__file__).parents[1] / "federation"))
