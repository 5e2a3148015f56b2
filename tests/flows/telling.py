"""What the test of telling runs in a process of its own, against the server of its environment.

python telling.py LAKE JSON: tells about runs of the lake. JSON: a list of [run id, lives, digest].
"""

import json
import sys
from pathlib import Path

from tasks.lake.run import Run
from tasks.notify import notify_alerts
from tasks.settings import NotifyConfig

for name, lives, digest in json.loads(sys.argv[2]):
    run = Run(Path(sys.argv[1]), name)
    print(notify_alerts(run, NotifyConfig(tell=lives, digest=digest), 3), flush=True)  # noqa: T201
    run.finish("completed")
