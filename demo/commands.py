"""Run several airflow commands in one process, since importing Airflow takes longer than most of them.

python -m demo.commands "db migrate" "dags test my_dag"
"""

from __future__ import annotations

import shlex
import sys

from airflow.__main__ import main as airflow


def main() -> None:
    """Run each argument as one command; the first that fails ends the process with its status."""
    for command in sys.argv[1:]:
        sys.argv = ["airflow", *shlex.split(command)]
        airflow()


if __name__ == "__main__":
    main()
