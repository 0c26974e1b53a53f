"""python benchmarks/queue.py: what the queue costs a job, and how true its promises are. See queueing.py.

Python looks into this folder first, and its library has a `queue` too: whoever imports that gets the library's.
"""

import importlib.util
import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    from benchmarks.queueing import main

    sys.exit(main())

_found = importlib.util.spec_from_file_location("queue", Path(sysconfig.get_path("stdlib")) / "queue.py")
assert _found is not None
assert _found.loader is not None
sys.modules["queue"] = importlib.util.module_from_spec(_found)
_found.loader.exec_module(sys.modules["queue"])
