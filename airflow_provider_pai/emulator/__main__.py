"""Serve the emulator until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sqlite3
import sys
import threading

from .server import PaiEmulator


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_pai.emulator",
        description="Serve a local PAI AIWorkSpace on 127.0.0.1.",
    )
    parser.add_argument("--port", type=int, default=8765, help="0 picks a free one (default: %(default)s)")
    parser.add_argument("--db", default=":memory:", help="an SQLite file (default: in memory)")
    parser.add_argument("--access-key-id", default="emulator", help="default: %(default)s")
    parser.add_argument("--access-key-secret", default="emulator-secret", help="default: %(default)s")
    options = parser.parse_args(arguments)

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        emulator = PaiEmulator(options.port, options.db, options.access_key_id, options.access_key_secret)
    except sqlite3.Error as error:
        print(f"cannot use the database {options.db}: {error}", file=sys.stderr)
        return 1
    try:
        with emulator:
            print(f"PAI emulator listening on {emulator.url}", flush=True)
            print(f"export AIRFLOW_CONN_PAI_DEFAULT='{emulator.connection_uri}'", flush=True)
            ended.wait()
    except (OSError, OverflowError) as error:
        print(f"cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
