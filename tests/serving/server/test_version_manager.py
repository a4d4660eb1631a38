"""Loading, switching, reporting and unloading versions."""

import asyncio
import logging
import os
from pathlib import Path

import pytest

from tests.support.fake_servable import FakeServable
from tfgpt2.serving.server.responses import status_response
from tfgpt2.serving.server.serving_error import ServingError
from tfgpt2.serving.server.version_manager import ModelRegistry, VersionManager


def add_version(base, version, content="good"):
    folder = base / str(version)
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_text(content)


def load(name, version, path):
    if (path / "saved_model.pb").read_text() != "good":
        raise ServingError("DATA_LOSS", "broken file")
    return FakeServable(name, version)


def make_manager(base, labels=(), **options):
    return VersionManager("m", base, dict(labels), load=load, **options)


def states(found):
    return [(one.version, one.state, one.code) for one in found.statuses()]


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def test_the_newest_number_serves(tmp_path):
    for name in ("1", "3", "10", ".11.part", "latest", "12"):
        add_version(tmp_path, name)
    (tmp_path / "12" / "saved_model.pb").unlink()  # not there yet

    async def main():
        manager = make_manager(tmp_path)
        with pytest.raises(ServingError, match="Could not find any versions of model m"):
            manager.statuses()
        with pytest.raises(ServingError, match="is loading") as caught:
            manager.lease().__enter__()
        assert caught.value.code == "UNAVAILABLE" and caught.value.http == 503
        await manager.poll(wait_until_stable=False)
        assert states(manager) == [(10, "AVAILABLE", "OK")]
        with manager.lease() as servable:
            assert servable.version == 10
        for wrong in ({"version": 3}, {"version": 99}):
            with pytest.raises(ServingError, match="Servable not found for request: Specific"):
                manager.lease(**wrong).__enter__()
        await manager.close()

    run(main())


def test_a_new_version_replaces_the_old_one_after_its_last_request(tmp_path):
    add_version(tmp_path, 1)

    async def main():
        manager = make_manager(tmp_path)
        await manager.poll(wait_until_stable=False)
        with manager.lease() as old:
            add_version(tmp_path, 2)
            await manager.poll()
            assert states(manager) == [(1, "AVAILABLE", "OK")]  # its files may still be written
            await manager.poll()
            assert states(manager) == [(2, "AVAILABLE", "OK"), (1, "UNLOADING", "OK")]
            with manager.lease() as new:
                assert (old.version, new.version) == (1, 2)
            assert not (await asyncio.wait(manager._unloading, timeout=2.0))[0]
            assert states(manager)[1] == (1, "UNLOADING", "OK")
        while states(manager)[1] != (1, "END", "OK"):
            await asyncio.sleep(0.01)
        await manager.close()

    run(main())


def test_a_broken_version_is_reported_and_replaces_nothing(tmp_path):
    add_version(tmp_path, 1)

    async def main():
        manager = make_manager(tmp_path)
        await manager.poll(wait_until_stable=False)
        add_version(tmp_path, 2, "bad")
        for _ in range(4):
            await manager.poll()
        assert states(manager) == [(2, "END", "DATA_LOSS"), (1, "AVAILABLE", "OK")]
        assert manager.statuses(2)[0].message == "broken file"
        add_version(tmp_path, 2, "good")  # repaired: its files are not those that failed
        await manager.poll()
        await manager.poll()
        assert states(manager)[0] == (2, "AVAILABLE", "OK")
        await manager.close()
        again = make_manager(tmp_path)
        add_version(tmp_path, 3, "bad")
        await again.poll(wait_until_stable=False)
        assert again.available() == [2]  # a restart finds the good one behind the broken one
        await again.close()

    run(main())


def test_an_empty_folder(tmp_path):
    async def main():
        manager = make_manager(tmp_path)
        await manager.poll(wait_until_stable=False)
        with pytest.raises(ServingError, match="Latest") as caught:
            manager.lease().__enter__()
        assert caught.value.code == "NOT_FOUND"

    run(main())


def test_deleting_versions(tmp_path):
    add_version(tmp_path, 1)
    add_version(tmp_path, 2)

    async def main():
        manager = make_manager(tmp_path)
        await manager.poll(wait_until_stable=False)
        (tmp_path / "2" / "saved_model.pb").unlink()
        for _ in range(2):
            await manager.poll()
        assert manager.available() == [1]
        (tmp_path / "1" / "saved_model.pb").unlink()
        await manager.poll()
        assert manager.available() == [1]  # the old one rather than none
        await manager.close()

    run(main())


def test_several_versions_and_labels(tmp_path):
    for number in (1, 2, 3):
        add_version(tmp_path, number)

    async def main():
        manager = make_manager(tmp_path, keep_versions=2, labels={"stable": 2, "gone": 1})
        await manager.poll(wait_until_stable=False)
        assert manager.available() == [3, 2]
        with (
            manager.lease(label="stable") as a,
            manager.lease(version=2) as b,
            manager.lease() as c,
        ):
            assert (a.version, b.version, c.version) == (2, 2, 3)
        with pytest.raises(ServingError, match="Unrecognized servable version label: x"):
            manager.lease(label="x").__enter__()
        with pytest.raises(ServingError, match="Specific"):
            manager.lease(label="gone").__enter__()
        await manager.close()

    run(main())


def test_numbers_are_those_of_tensorflow_serving(tmp_path):
    # Numbers of 64 bits, in any spelling; the rest are not versions.
    for name in ("007", "-2", "9223372036854775808", "9" * 40, "1_0", "٣"):
        add_version(tmp_path, name)

    async def main():
        manager = make_manager(tmp_path, keep_versions=9)
        await manager.poll(wait_until_stable=False)
        assert manager.available() == [7, -2]
        with manager.lease(version=7) as servable:
            assert servable.version == 7
        (tmp_path / "007" / "saved_model.pb").unlink()
        add_version(tmp_path, "9223372036854775807")
        for _ in range(2):
            await manager.poll()
        assert manager.available() == [2**63 - 1, -2]
        await manager.close()

    run(main())


def test_the_folder_of_a_version_is_the_one_that_was_found(tmp_path):
    add_version(tmp_path, "0012")
    paths = []

    def record(name, version, path):
        paths.append(path)
        return load(name, version, path)

    async def main():
        manager = VersionManager("m", tmp_path, {}, load=record)
        await manager.poll(wait_until_stable=False)
        assert manager.available() == [12]
        await manager.close()

    run(main())
    assert paths == [tmp_path / "0012"]


def test_of_two_folders_with_one_number_the_last_is_served_and_the_other_reported(tmp_path, caplog):
    add_version(tmp_path, "1")
    add_version(tmp_path, "001", "bad")
    caplog.set_level(logging.WARNING)

    async def main():
        manager = make_manager(tmp_path)
        for _ in range(3):
            await manager.poll(wait_until_stable=False)
        assert states(manager) == [(1, "AVAILABLE", "OK")]
        await manager.close()

    run(main())
    (line,) = [record.getMessage() for record in caplog.records]  # not at each scan
    assert line == "m: the directory 001 is ignored: 1 is version 1, too."


def test_the_status_never_fails(tmp_path, monkeypatch):
    """Whatever lies in the folder, and whatever loading says."""
    for name in ("1", "2", "3", "9" * 19, "9" * 20, "-9223372036854775808"):
        add_version(tmp_path, name, "bad")
    (tmp_path / "4").symlink_to("nowhere")
    (tmp_path / "5").symlink_to("5")
    (tmp_path / "6").write_text("a file")
    (tmp_path / "7" / "saved_model.pb").mkdir(parents=True)
    os.mkdir(os.fsencode(tmp_path) + b"/8\xff")
    os.mkdir(os.fsencode(tmp_path) + b"/8\n")
    (tmp_path / "8\n" / "saved_model.pb").write_text("bad")
    errors = iter(
        [ValueError("\ud800" * 5000), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x")]
    )

    def fail(name, version, path):
        raise next(errors, ServingError("DATA_LOSS", "broken \udcff"))

    async def main():
        manager = VersionManager("m", tmp_path, {}, load=fail)
        await manager.poll(wait_until_stable=False)
        return status_response(manager.statuses())

    found = run(main()).model_version_status
    assert [one.version for one in found] == [8, 3, 2, 1, -(2**63)]
    assert {one.status.error_code for one in found} == {13, 8, 15}
    assert "\\udcff" in found[-1].status.error_message


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(tmp_path, monkeypatch, caplog):
    add_version(tmp_path, 1)
    add_version(tmp_path, 2)
    is_file = Path.is_file

    def denied(path):
        if path.parent.name == "2":
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", denied)

    async def main():
        manager = make_manager(tmp_path)
        for _ in range(2):
            await manager.poll(wait_until_stable=False)
        assert manager.available() == [1]
        await manager.close()

    run(main())
    (line,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "the directory 2 is ignored: it cannot be read" in line


def test_a_server_starts_while_a_model_folder_is_missing(tmp_path, caplog):
    (tmp_path / "there").mkdir()
    add_version(tmp_path / "there", 1)

    async def main():
        models = {
            "there": make_manager(tmp_path / "there"),
            "gone": make_manager(tmp_path / "gone"),
        }
        registry = ModelRegistry(models, poll_seconds=3600)
        await registry.start()
        assert models["there"].available() == [1] and not registry.ready()
        await registry.close()
        await models["there"].close()

    run(main())
    assert "Cannot scan the versions of m" in caplog.text
