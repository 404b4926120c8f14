"""A part of `experiments.on_gpu` that never ends: it prints the id of a process that it started, and waits.

python -m tests.experiments.endless_part
"""

import subprocess
import sys

with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as process:
    print(process.pid, flush=True)
