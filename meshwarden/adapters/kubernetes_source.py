"""Configuration from a Kubernetes API server: our kinds, and the Secrets and ConfigMaps that they
and the settings name.

    Watch of each kind -+                                          +-> Reporter
    Watch of each file -+-> quiet -> ObjectBundle -> outcome ------+-> log, metrics

Nothing is offered before every kind was listed. A Secret is watched by its name in its namespace,
never all of them. When the API server is away the last good configuration serves, however old.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from meshwarden.adapters.kubernetes_client import KubernetesClient
from meshwarden.adapters.kubernetes_watch import Collection, Watch, WatchTimes
from meshwarden.adapters.logs import logger
from meshwarden.adapters.settings import KubernetesSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.core.backoff import Backoff
from meshwarden.core.documents import API_VERSION
from meshwarden.core.faults import Problem
from meshwarden.core.object_verdicts import ACCEPTED, ObjectVerdict
from meshwarden.core.offered_objects import (
    ObjectRules,
    OfferedObject,
    object_bundle,
    offered_object,
)
from meshwarden.core.ownership import OWNERSHIP
from meshwarden.core.partial_acceptance import PartialAcceptance
from meshwarden.core.snapshot import Bundle, Outcome

QUIET_SECONDS = 0.05
FILES_AT_MOST = 1000
"""Secrets and ConfigMaps that objects refer to; each has a connection of its own."""

LOGGED_AT_MOST = 50
_RESOURCES = {"secret": "secrets", "configmap": "configmaps"}
_File = tuple[str, str, str]
"""Sort, namespace and name of a Secret or ConfigMap."""


class Reporter(Protocol):
    """Who is told what became of each object."""

    def report(self, verdicts: Sequence[ObjectVerdict], version: str) -> None:
        """Must not block; `version` is that of the configuration that was offered."""


def plural(kind: str) -> str:
    """The name of a kind's collection."""
    small = kind.lower()
    return f"{small[:-1]}ies" if small.endswith("y") else f"{small}s"


class KubernetesSource:
    """The `Source` of a service that has `rules`; `acceptance` is the compiler of its holder.
    `named` maps a file's name in the bundle to `secret/NAME/KEY` in the shared namespace.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        client: KubernetesClient,
        *,
        rules: ObjectRules,
        acceptance: PartialAcceptance[Any],
        metrics: Metrics,
        clock: Callable[[], float],
        chance: Callable[[], float],
        named: Mapping[str, str] | None = None,
        reporter: Reporter | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._client = client
        self._rules = rules
        self._acceptance = acceptance
        self._clock = clock
        self._chance = chance
        self._pause = pause
        self.reporter = reporter
        self._named = dict(named or {})
        if settings.ownership:
            self._named[OWNERSHIP] = f"configmap/{settings.ownership}/ownership.yaml"
        self._changed = asyncio.Event()
        self._tasks: dict[Watch, asyncio.Task[None]] = {}
        self._kinds: dict[tuple[str, str], Watch] = {}
        self._files: dict[_File, Watch] = {}
        self._objects: dict[str, tuple[dict[str, Any], OfferedObject]] = {}
        self._told: dict[str, str] = {}
        self._restarts = metrics.tally(
            "kubernetes_watch_restarts", "Watches that ended, by why.", ["reason"]
        )
        self._add_gauges(metrics)

    def _add_gauges(self, metrics: Metrics) -> None:
        metrics.gauge(
            "kubernetes_watch_connected",
            "1 while every watch is connected to the Kubernetes API server.",
            lambda: float(bool(self._tasks) and all(w.is_connected for w in self._tasks)),
            across_workers="livemin",
        )
        metrics.gauge(
            "kubernetes_objects",
            "Objects of our kinds that are known.",
            lambda: float(sum(len(watch.objects) for watch in self._kinds.values())),
        )
        metrics.gauge(
            "kubernetes_objects_refused",
            "Objects that are not taken as they are.",
            lambda: float(len(self._told)),
        )
        metrics.gauge(
            "kubernetes_silent_seconds",
            "Seconds since the watch that is silent for longest heard from the API server.",
            self._silent_seconds,
        )

    def _silent_seconds(self) -> float:
        now = self._clock()
        return max((now - watch.heard_at for watch in self._tasks), default=0.0)

    def read(self) -> None:
        """Nothing can be had without waiting."""

    async def changes(self, resync_seconds: float) -> AsyncGenerator[Bundle]:
        """A bundle once every kind was listed, and after each change; how often everything is
        listed anew is a setting of its own.
        """
        del resync_seconds
        try:
            for kind in self._rules.kinds:
                for namespace in self._settings.watched_namespaces():
                    group, version = API_VERSION.split("/")
                    collection = Collection(group, version, plural(kind), namespace)
                    self._kinds[kind, namespace] = self._started(collection)
            while True:
                await self._changed.wait()
                # Whoever applies a folder changes many objects at once.
                await self._pause(QUIET_SECONDS)
                self._changed.clear()
                for task in self._tasks.values():
                    if task.done():
                        task.result()
                if self.unready_reason():
                    continue
                objects = self._offered()
                self._watch_files(objects)
                if all(watch.has_answered for watch in self._files.values()):
                    yield self._bundle(objects)
        finally:
            await self._stop()

    def unready_reason(self) -> str:
        """Which kinds were not listed yet, and why; empty once all were."""
        waiting = [watch for watch in self._kinds.values() if not watch.is_listed]
        if not self._kinds:
            return "the watches are not started yet"
        return "; ".join(
            f"{watch.collection}: {watch.failure or 'not listed yet'}" for watch in waiting
        )

    def status(self) -> dict[str, object]:
        """How the watches are, for `/readyz?verbose`."""
        now = self._clock()
        return {
            "server": self._client.server,
            "watches": {
                str(watch.collection): {
                    "is_connected": watch.is_connected,
                    "objects": len(watch.objects),
                    "heard_seconds_ago": round(now - watch.heard_at, 1),
                    "failure": watch.failure or None,
                }
                for watch in [*self._kinds.values(), *self._files.values()]
            },
            "refused": dict(sorted(self._told.items())[:LOGGED_AT_MOST]),
        }

    def answered(self, outcome: Outcome) -> None:
        """Tell what became of each object."""
        verdicts = self._current_verdicts()
        refused = {
            str(verdict.object): f"{verdict.reason}: {'; '.join(map(str, verdict.problems))}"
            for verdict in verdicts
            if verdict.reason != ACCEPTED
        }
        refused |= {problem.file: str(problem) for problem in self._acceptance.problems}
        news = {name: text for name, text in refused.items() if self._told.get(name) != text}
        for name, text in list(news.items())[:LOGGED_AT_MOST]:
            logger().warning("object_refused", object=name, version=outcome.version, reason=text)
        for name in list(self._told.keys() - refused.keys())[:LOGGED_AT_MOST]:
            logger().info("object_no_longer_refused", object=name, version=outcome.version)
        self._told = refused
        if self.reporter is not None:
            self.reporter.report(verdicts, outcome.version)

    def _current_verdicts(self) -> list[ObjectVerdict]:
        """With the newest generations: what was judged may have been changed in a way that says the
        same, and is then not judged again.
        """
        current = {offered.id: offered for _, offered in self._objects.values()}
        return [
            replace(verdict, uid=found.uid, generation=found.generation)
            for verdict in self._acceptance.verdicts
            if (found := current.get(verdict.object)) is not None
        ]

    def _started(self, collection: Collection) -> Watch:
        settings = self._settings
        watch = Watch(
            self._client,
            collection,
            changed=self._changed.set,
            times=WatchTimes(
                watch=settings.watch_seconds,
                silence=settings.silence_seconds,
                relist=settings.relist_seconds,
                retry=Backoff(
                    initial_seconds=min(0.5, settings.retry_at_most_seconds),
                    at_most_seconds=settings.retry_at_most_seconds,
                ),
            ),
            clock=self._clock,
            chance=self._chance,
            counted=self._restarts.add,
            pause=self._pause,
        )
        task = asyncio.create_task(watch.run())
        task.add_done_callback(lambda _task: self._changed.set())
        self._tasks[watch] = task
        return watch

    def _offered(self) -> list[OfferedObject]:
        """Every object as a file; one that did not change is not made again."""
        made: dict[str, tuple[dict[str, Any], OfferedObject]] = {}
        for (kind, _), watch in self._kinds.items():
            for value in watch.objects.values():
                metadata = value["metadata"]
                key = f"{kind}/{metadata.get('namespace', '')}/{metadata['name']}"
                before = self._objects.get(key)
                if before is None or before[0] is not value:
                    offered = offered_object(
                        kind,
                        value,
                        rules=self._rules,
                        shared_namespace=self._settings.shared_namespace,
                    )
                    before = (value, self._judged(offered))
                made[key] = before
        self._objects = made
        return [offered for _, offered in made.values()]

    def _judged(self, offered: OfferedObject) -> OfferedObject:
        """With a problem where its namespace's Secrets may not be read."""
        allowed = self._settings.namespaces_of_secrets()
        if not offered.files or offered.id.namespace in allowed:
            return offered
        what = (
            f"objects of the namespace '{offered.id.namespace}' may not refer to Secrets and "
            "ConfigMaps"
        )
        hint = "the platform allows it by configuration.kubernetes.secret-namespaces"
        problem = Problem(offered.id.file, 0, what, hint)
        return replace(offered, files=(), problems=(*offered.problems, problem))

    def _watch_files(self, objects: Sequence[OfferedObject]) -> None:
        """Watch what is referred to now, and nothing else."""
        shared = self._settings.shared_namespace
        wanted = {_file_of(_absolute(text, shared)) for text in self._named.values()}
        for offered in objects:
            for name in offered.files:
                if len(wanted) < FILES_AT_MOST:
                    wanted.add(_file_of(name))
        for file in self._files.keys() - wanted:
            self._tasks.pop(self._files.pop(file)).cancel()
        for file in sorted(wanted - self._files.keys()):
            sort, namespace, name = file
            collection = Collection("", "v1", _RESOURCES[sort], namespace, name)
            self._files[file] = self._started(collection)

    def _bundle(self, objects: Sequence[OfferedObject]) -> Bundle:
        further: dict[str, bytes] = {}
        for offered in objects:
            for name in offered.files:
                content = self._content(name)
                if content is not None:
                    further[name] = content
        required: dict[str, Problem] = {}
        for name, text in self._named.items():
            absolute = _absolute(text, self._settings.shared_namespace)
            content = self._content(absolute)
            if content is None:
                required[name] = Problem(absolute, 0, self._missing(absolute))
            else:
                required[name] = Problem(absolute, 0, "is missing")
                further[name] = content
        return object_bundle(objects, further, required)

    def _content(self, name: str) -> bytes | None:
        """The value of one key of a Secret or ConfigMap; None where there is none."""
        watch = self._files.get(_file_of(name))
        if watch is None:
            return None
        sort, namespace, object_name, key = name.split("/")
        value = watch.objects.get((namespace, object_name), {})
        plain = (value.get("data") or {}).get(key)
        encoded = plain if sort == "secret" else (value.get("binaryData") or {}).get(key)
        if sort == "configmap" and plain is not None:
            return str(plain).encode()
        try:
            return None if encoded is None else base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return None

    def _missing(self, name: str) -> str:
        watch = self._files[_file_of(name)]
        sort, namespace, object_name, key = name.split("/")
        if watch.failure:
            return f"can't be read: {watch.failure}"
        if not watch.objects:
            return f"there is no {sort} '{object_name}' in '{namespace}'"
        return f"the {sort} '{object_name}' in '{namespace}' has no key '{key}'"

    async def _stop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()
        self._kinds.clear()
        self._files.clear()


def _absolute(text: str, namespace: str) -> str:
    sort, rest = text.split("/", 1)
    return f"{sort}/{namespace}/{rest}"


def _file_of(name: str) -> _File:
    sort, namespace, object_name, _key = name.split("/")
    return sort, namespace, object_name
