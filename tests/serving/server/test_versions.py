"""Folders and versions: what is loaded, switched, reported and kept."""

import asyncio

import pytest

from tests.support.fake_servable import FakeServable
from tfgpt2.serving.server.models import Model
from tfgpt2.serving.server.status import ServingError


def add(base, version, content="good"):
    folder = base / str(version)
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_text(content)


def load(name, version, path):
    if (path / "saved_model.pb").read_text() != "good":
        raise ServingError("DATA_LOSS", "broken file")
    return FakeServable(name, version)


def model(base, **options):
    return Model("m", base, options.pop("labels", {}), load=load, **options)


def states(found):
    return [(one.version, one.state, one.code) for one in found.statuses()]


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_the_newest_number_serves(tmp_path):
    for name in ("1", "3", "10", ".11.part", "latest", "12"):
        add(tmp_path, name)
    (tmp_path / "12" / "saved_model.pb").unlink()  # not there yet

    async def main():
        one = model(tmp_path)
        with pytest.raises(ServingError, match="Could not find any versions of model m"):
            one.statuses()
        with pytest.raises(ServingError, match="is loading") as caught:
            one.lease().__enter__()
        assert caught.value.code == "UNAVAILABLE" and caught.value.http == 503
        await one.look(patient=False)
        assert states(one) == [(10, "AVAILABLE", "OK")]
        with one.lease() as servable:
            assert servable.version == 10
        for wrong in ({"version": 3}, {"version": 99}):
            with pytest.raises(ServingError, match="Servable not found for request: Specific"):
                one.lease(**wrong).__enter__()
        await one.close()

    run(main())


def test_a_new_version_takes_over_and_the_old_one_ends_with_its_last_request(tmp_path):
    add(tmp_path, 1)

    async def main():
        one = model(tmp_path)
        await one.look(patient=False)
        with one.lease() as old:
            add(tmp_path, 2)
            await one.look()
            assert states(one) == [(1, "AVAILABLE", "OK")]  # its files may still be on their way
            await one.look()
            assert states(one) == [(2, "AVAILABLE", "OK"), (1, "UNLOADING", "OK")]
            with one.lease() as new:
                assert (old.version, new.version) == (1, 2)
            assert not (await asyncio.wait(one._unloading, timeout=2.0))[0]
            assert states(one)[1] == (1, "UNLOADING", "OK")
        while states(one)[1] != (1, "END", "OK"):
            await asyncio.sleep(0.01)
        await one.close()

    run(main())


def test_a_broken_version_is_reported_and_replaces_nothing(tmp_path):
    add(tmp_path, 1)

    async def main():
        one = model(tmp_path)
        await one.look(patient=False)
        add(tmp_path, 2, "bad")
        for _ in range(4):
            await one.look()
        assert states(one) == [(2, "END", "DATA_LOSS"), (1, "AVAILABLE", "OK")]
        assert one.statuses(2)[0].message == "broken file"
        add(tmp_path, 2, "good")  # mended: its files are not those that failed
        await one.look()
        await one.look()
        assert states(one)[0] == (2, "AVAILABLE", "OK")
        await one.close()
        again = model(tmp_path)
        add(tmp_path, 3, "bad")
        await again.look(patient=False)
        assert again.available() == [2]  # a restart finds the good one behind the broken one
        await again.close()

    run(main())


def test_an_empty_folder_has_nothing_to_wait_for(tmp_path):
    async def main():
        one = model(tmp_path)
        await one.look(patient=False)
        with pytest.raises(ServingError, match="Latest") as caught:
            one.lease().__enter__()
        assert caught.value.code == "NOT_FOUND"

    run(main())


def test_going_back_and_losing_the_folder(tmp_path):
    add(tmp_path, 1)
    add(tmp_path, 2)

    async def main():
        one = model(tmp_path)
        await one.look(patient=False)
        (tmp_path / "2" / "saved_model.pb").unlink()
        for _ in range(2):
            await one.look()
        assert one.available() == [1]
        (tmp_path / "1" / "saved_model.pb").unlink()
        await one.look()
        assert one.available() == [1]  # rather the old one than none
        await one.close()

    run(main())


def test_several_versions_and_labels(tmp_path):
    for number in (1, 2, 3):
        add(tmp_path, number)

    async def main():
        one = model(tmp_path, keep=2, labels={"stable": 2, "gone": 1})
        await one.look(patient=False)
        assert one.available() == [3, 2]
        with one.lease(label="stable") as a, one.lease(version=2) as b, one.lease() as c:
            assert (a.version, b.version, c.version) == (2, 2, 3)
        with pytest.raises(ServingError, match="Unrecognized servable version label: x"):
            one.lease(label="x").__enter__()
        with pytest.raises(ServingError, match="Specific"):
            one.lease(label="gone").__enter__()
        await one.close()

    run(main())
