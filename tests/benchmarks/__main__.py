"""python tests/benchmarks [pytest options]: every benchmark, under the allocator settings that a sweep's workers have.

The settings are read when a process starts, so this one starts another. Both sides of each comparison run in it.
"""

import os
import sys
from pathlib import Path

from harness.launch.cluster import MALLOC

folder = str(Path(__file__).parent)
command = [sys.executable, "-m", "pytest", folder, "-m", "benchmark", *sys.argv[1:]]
os.execve(sys.executable, command, os.environ | MALLOC)
