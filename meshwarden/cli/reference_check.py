"""`ratelimit_config_check`, also `meshwarden check -config_dir DIR`: the configuration check of
envoyproxy/ratelimit, so that a pipeline which calls it keeps its flags, its lines and its status.

Reads one folder's files, whatever their names, and no folder below it. Where the reference stops at
the first fault, each further one follows on a line of its own; where it ends with a Go panic and
status 2 (a file that is no YAML, or has an unknown key), this tells the fault and ends with 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from meshwarden.cli.output import print_line
from meshwarden.core.faults import InvalidInput
from meshwarden.core.snapshot import Bundle

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


def main() -> None:
    """The program of its own, with flags as Go's `flag` package takes them."""
    parser = argparse.ArgumentParser("ratelimit_config_check", allow_abbrev=False)
    parser.add_argument("-config_dir", "--config_dir", default="", metavar="DIR")
    parser.add_argument(
        *("-merge_domain_configs", "--merge_domain_configs"),
        nargs="?",
        choices=(*_TRUE, *_FALSE),
        const="true",
        default="false",
        metavar="true|false",
    )
    given = parser.parse_args()
    merges_domains = given.merge_domain_configs in _TRUE
    sys.exit(check_as_the_reference(given.config_dir, merges_domains=merges_domains))


def check_as_the_reference(folder: str, *, merges_domains: bool) -> int:
    """Print what the reference's check prints; its exit status."""
    from ratelimit_service.core.compile import compile_limits, reference_message

    print_line("checking rate limit configs...")
    print_line(f"loading config directory: {folder}")
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - an empty name is no folder, as in Go
    except OSError as error:
        print_line(f"error opening directory {folder}: open {folder}: {_reason(error)}")
        return 1
    files: dict[str, bytes] = {}
    for name in names:
        path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118
        print_line(f"opening config file: {path}")
        try:
            files[path] = Path(path).read_bytes()
        except OSError as error:
            verb = "read" if isinstance(error, IsADirectoryError) else "open"
            print_line(f"error reading file {path}: {verb} {path}: {_reason(error)}")
            return 1
    try:
        compile_limits(Bundle(files), merges_domains=merges_domains, takes_every_file=True)
    except InvalidInput as fault:
        for problem in fault.problems:
            print_line(f"error loading rate limit configs: {reference_message(problem)}")
        return 1
    print_line("all rate limit configs ok")
    return 0


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
