"""`python -m spark_fast.hosts FOLDER` runs the relay of a run folder: see `relay`."""

import os
import sys
from pathlib import Path

from spark_fast.hosts.relay import main

if len(sys.argv) != 2:
    sys.exit("usage: python -m spark_fast.hosts RUN-FOLDER")
status = main(Path(sys.argv[1]))
sys.stderr.flush()
os._exit(status)  # a thread may be waiting for a store that never answers
