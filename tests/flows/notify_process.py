"""Notify about the alerts of runs, in a separate process, for test_notifications.py.

Usage: python notify_process.py LAKE JSON, where JSON is a list of [run id, kinds of changes, digest].
"""

import json
import sys
from pathlib import Path

from tasks.lake.run import Run
from tasks.notify import notify
from tasks.settings import NotifyConfig

for name, kinds, digest in json.loads(sys.argv[2]):
    run = Run(Path(sys.argv[1]), name)
    print(notify.fn(run, NotifyConfig(tell=kinds, digest=digest), 3), flush=True)
    run.finish("completed")
