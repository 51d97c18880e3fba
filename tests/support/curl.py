"""Runs the demo's curl commands: with curl where the machine has it, else by doing what they say.

A bare machine has no curl, and the tests need none. Understood without it: `-H`, `-X`, `-d`, `-sS`,
one URL, and in it one `[first-last]` range, as curl globs it. Anything else fails, so that the two
ways stay alike.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import httpx2


def statuses(command: str) -> list[int]:
    """The status of each request that `command` sends, in their order."""
    words = shlex.split(command)
    assert words.pop(0) == "curl"
    if shutil.which("curl") is None:
        return _sent(words)
    done = subprocess.run(
        ["curl", *words, "-w", "\n%{http_code}\n"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return [int(found) for found in re.findall(r"^(\d{3})$", done.stdout, re.MULTILINE)]


def _sent(words: list[str]) -> list[int]:
    method, content, headers, urls = "GET", None, [], []
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers.append((name, value))
        elif word == "-X":
            method = words.pop(0)
        elif word == "-d":
            content = words.pop(0)
        elif word != "-sS":
            assert word.startswith("http://127.0.0.1:"), f"not understood: {word}"
            urls.append(word)
    assert len(urls) == 1
    return [
        httpx2.request(method, url, headers=headers, content=content, timeout=10).status_code
        for url in _globbed(urls[0])
    ]


def _globbed(url: str) -> list[str]:
    found = re.search(r"\[(\d+)-(\d+)\]", url)
    if found is None:
        return [url]
    first, last = map(int, found.groups())
    return [url.replace(found.group(), str(n)) for n in range(first, last + 1)]
