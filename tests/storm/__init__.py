"""A storm: many clients of one real server, with everything that goes wrong, and a judge.

``PYTHONPATH=tests python -m storm BACKEND SECONDS`` lets processes and threads add, read, copy and
delete the same few ids and clean up, while clients are killed and stopped, servers are stopped, and
connections are cut. Each client writes down what it began and what came of it; from that `checker`
tells whether the store kept its contract.
"""

from __future__ import annotations

import sys
from pathlib import Path

_FUNCTIONAL = str(Path(__file__).resolve().parents[1] / "functional")
if _FUNCTIONAL not in sys.path:  # `import servers`
    sys.path.append(_FUNCTIONAL)
