"""python meter.py FILE COMMAND...: run a command and write its seconds, peak memory and exit code to FILE as JSON.

A process of its own, because Linux counts the memory of whoever starts a command into the command's peak: this one
has loaded nothing. The peak is that of the command or of the largest process it waited for, in GiB.
"""

import json
import os
import sys
import time

file, *command = sys.argv[1:]
started, clock = time.time(), time.perf_counter()
process = os.spawnvp(os.P_NOWAIT, command[0], command)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - clock
with open(file, "w") as out:
    json.dump(
        {
            "started": started,
            "seconds": seconds,
            "gib": usage.ru_maxrss / 2**20,  # Linux counts it in KiB
            "code": os.waitstatus_to_exitcode(status),
        },
        out,
    )
