"""End runs and notify about their alerts, in a separate process, for test_notifications.py.

Usage: python notify_process.py LAKE RUN_ID [digest]
"""

import sys
from pathlib import Path

from tasks.lake.run import Run
from tasks.notify import notify_run_end, store_alert_history
from tasks.settings import NotifyConfig

run = Run(Path(sys.argv[1]), sys.argv[2])
if run.read_manifest()["status"] == "running":
    store_alert_history(run, 3)
    run.finish("completed")
review_url = "https://review.example.org"
notify_run_end(run, NotifyConfig(digest="digest" in sys.argv, enabled=True, review_url=review_url))
