"""Watch a study: the table of `status`, refreshed in place until nothing is queued or running."""

from __future__ import annotations

import sys
import time

from harness.launch import status, status_table
from harness.recipe.schema import Recipe

WATCH_SECONDS = 5


def watch(recipe: Recipe) -> int:
    """Refresh until the study rests; return the exit status, 130 if interrupted."""
    try:
        while True:
            rows = status.statuses(recipe)
            clear = "\033[H\033[2J" if sys.stdout.isatty() else ""
            lines = [f"{clear}{time.strftime('%H:%M:%S')}", status_table.table(rows), *status_table.slow_nodes(recipe)]
            print(*lines, sep="\n", flush=True)
            if not any(row.state in ("queued", "running") for row in rows):
                return 0
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        print("\njobs keep running: status shows them, cancel ends them, --watch watches again", file=sys.stderr)
        return 130
