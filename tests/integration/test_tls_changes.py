"""The certificates of a server in this process: their changes, and what it speaks."""

from __future__ import annotations

import asyncio
import ssl
import time
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshwarden.adapters import tls
from meshwarden.adapters.folder_source import FolderSource
from meshwarden.adapters.settings import TlsSettings
from meshwarden.adapters.telemetry import Metrics
from meshwarden.adapters.tls import RESYNC_SECONDS, Certificates
from meshwarden.core.snapshot import Bundle
from tests.support import grpc_service
from tests.support.certificates import Authority
from tests.support.processes import until
from tests.support.service_certificates import Mount, issued, renamed_into_place, shown_serial

OLD = Authority()


def followed(folder: Path) -> tuple[Certificates, Metrics]:
    """Certificates of a pair in `folder`, which a test may change."""
    renamed_into_place(issued(OLD), folder)
    settings = TlsSettings(certificate_file=folder / "tls.crt", key_file=folder / "tls.key")
    metrics = Metrics()
    return Certificates(settings, metrics=metrics, clock=time.time), metrics


async def test_versions_below_1_2_are_refused(tmp_path: Path):
    certificates, _ = followed(tmp_path)
    async with grpc_service.serving(certificates) as served:
        show = partial(asyncio.to_thread, shown_serial, served.server.port)
        assert await show(version=ssl.TLSVersion.TLSv1_2) == certificates.pair.serial
        with (
            pytest.warns(DeprecationWarning, match="TLSv1_1"),
            pytest.raises(ssl.SSLError),
        ):
            await show(version=ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize("is_mounted", [True, False])
async def test_a_change_is_seen_at_once_however_it_comes(tmp_path: Path, is_mounted: bool):
    """A mounted Secret's folder is swapped; `mv` renames one file, then the other."""
    mount, first, second = Mount(tmp_path), issued(OLD), issued(OLD)
    if is_mounted:
        mount.put(first)
    else:
        renamed_into_place(first, tmp_path)
    settings = TlsSettings(certificate_file=mount.certificate, key_file=mount.key)
    certificates = Certificates(settings, metrics=Metrics(), clock=time.time)
    following = asyncio.create_task(certificates.follow())
    try:
        # The watch stands when a change is seen; the next one is then not found by a rereading.
        for pair in (second, first):
            if is_mounted:
                mount.put(pair)
            else:
                renamed_into_place(pair, tmp_path)
            await until(
                lambda pair=pair: certificates.pair.serial == pair.serial,
                "the change is seen",
                limit_seconds=RESYNC_SECONDS - 1,
            )
    finally:
        following.cancel()
        await asyncio.wait({following})


async def test_a_broken_pair_is_told_once_however_often_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reads = 0
    read = FolderSource.read

    def counted(source: FolderSource) -> Bundle:
        nonlocal reads
        reads += 1
        return read(source)

    monkeypatch.setattr(tls, "RESYNC_SECONDS", 0.02)
    monkeypatch.setattr(FolderSource, "read", counted)
    certificates, metrics = followed(tmp_path)
    with capture_logs() as logs:
        following = asyncio.create_task(certificates.follow())
        try:
            (tmp_path / "tls.key").write_text("no key")
            await until(lambda: certificates.status()["refused"], "it is refused")
            refused_at = reads
            await until(lambda: reads > refused_at + 5, "it is read again and again")
        finally:
            following.cancel()
            await asyncio.wait({following})
    assert [event["event"] for event in logs] == ["tls_refused"]
    assert b'tls_reloads_total{outcome="refused"} 1.0' in metrics.exposition()
