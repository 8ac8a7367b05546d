"""Noticing that a file has changed: however editors, packages and Kubernetes change it."""

import asyncio
import os

import pytest

from poolwright.engine.watch import folders, stamps, watch

WITHIN_S = 10.0


class Watched:
    """A folder under watch; `changed` waits until its content was seen to differ."""

    def __init__(self, *places):
        self.places = set(places)
        self.seen = stamps(self.places)
        self.stop = asyncio.Event()
        self.news, self.looked = asyncio.Event(), asyncio.Event()

    def look(self):
        self.looked.set()
        now = stamps(self.places)
        if now != self.seen:
            self.seen = now
            self.news.set()

    async def __aenter__(self):
        self.task = asyncio.create_task(watch(lambda: self.places, self.look, self.stop))
        await asyncio.sleep(0)  # the first watch is set up before the first await of the task
        return self

    async def __aexit__(self, *_):
        self.stop.set()
        await asyncio.wait_for(self.task, WITHIN_S)

    async def changed(self):
        await asyncio.wait_for(self.news.wait(), WITHIN_S)
        self.news.clear()


@pytest.fixture
def only_inotify(monkeypatch):
    """What is noticed was reported: the look every two seconds is an hour away."""
    monkeypatch.setattr("poolwright.engine.watch._LOOK_S", 3600.0)


@pytest.fixture
def policies(tmp_path):
    folder = tmp_path / "policies.d"
    folder.mkdir()
    (folder / "mine.yaml").write_text("one")
    return folder


def in_place(file):
    file.write_text("two")


def by_renaming(file):
    """As vim, sed -i and configuration management do."""
    new = file.with_name(".mine.yaml.swp")
    new.write_text("two")
    new.rename(file)


def by_moving_away(file):
    """As emacs does: the old file becomes the backup."""
    file.rename(file.with_name("mine.yaml~"))
    file.write_text("two")


def by_removing(file):
    file.unlink()


def by_another(file):
    file.with_name("60-more.yaml").write_text("more")


@pytest.mark.parametrize("edit", [in_place, by_renaming, by_moving_away, by_removing, by_another])
async def test_an_edit_is_noticed_however_it_is_made(policies, edit, only_inotify):
    async with Watched(policies) as watched:
        edit(policies / "mine.yaml")
        await watched.changed()


@pytest.mark.parametrize("edit", [in_place, by_renaming, by_moving_away])
async def test_one_file_is_followed_through_all_its_incarnations(policies, edit, only_inotify):
    file = policies / "mine.yaml"
    async with Watched(file) as watched:
        for first in ("a", "b"):
            edit(file)
            await watched.changed()
            file.write_text(first)
            await watched.changed()


async def test_kubernetes_turns_a_link_that_the_file_only_leads_through(tmp_path):
    """A mounted ConfigMap: mine.yaml -> ..data/mine.yaml, ..data -> a folder that is replaced."""
    for name in ("..one", "..two", "..three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.yaml").write_text(name)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "mine.yaml").symlink_to("..data/mine.yaml")
    async with Watched(tmp_path / "mine.yaml") as watched:
        for name in ("..two", "..three"):
            (tmp_path / "..data_tmp").symlink_to(name)
            (tmp_path / "..data_tmp").rename(tmp_path / "..data")
            await watched.changed()


async def test_a_folder_that_does_not_exist_yet_is_waited_for(tmp_path):
    folder = tmp_path / "etc" / "policies.d"
    async with Watched(folder) as watched:
        folder.mkdir(parents=True)
        await watched.changed()
        (folder / "mine.yaml").write_text("one")
        await watched.changed()


async def test_other_places_may_be_watched_from_now_on(tmp_path, policies):
    async with Watched(policies) as watched:
        other = tmp_path / "elsewhere"
        other.mkdir()
        watched.places.add(other)
        by_renaming(policies / "mine.yaml")
        await watched.changed()
        (other / "more.yaml").write_text("more")
        await watched.changed()


async def test_what_cannot_be_watched_is_looked_at(policies, monkeypatch, caplog):
    """No inotify instance is left, as on a host with many watchers."""

    def refuses(*_args, **_options):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("watchfiles.watch", refuses)
    monkeypatch.setattr("poolwright.engine.watch._LOOK_S", 0.001)
    async with Watched(policies) as watched:
        in_place(policies / "mine.yaml")
        await watched.changed()
        for _ in range(3):
            watched.looked.clear()
            await asyncio.wait_for(watched.looked.wait(), WITHIN_S)
    assert caplog.text.count("Too many open files") == 1


def test_what_is_stamped_is_content(policies):
    file = policies / "mine.yaml"
    before = stamps([policies])
    os.utime(file, (1, 1))
    assert stamps([policies]) == before, "touch changes nothing"
    by_renaming(file)
    assert stamps([policies]) != before
    file.write_text("one")
    assert stamps([policies]) == before
    (policies / "notes.txt").write_text("not a policy")
    assert stamps([policies]) == before


def test_what_is_no_file_is_not_read(policies):
    os.mkfifo(policies / "pipe.yaml")
    (policies / "folder.yaml").mkdir()
    (policies / "loop.yaml").symlink_to("loop.yaml")
    found = {path.name: stamp for path, stamp in stamps([policies]).items()}
    assert found["pipe.yaml"] == "no file"
    assert found["folder.yaml"] == "folder"
    assert "symbolic links" in found["loop.yaml"]
    assert stamps([policies / "absent"]) == {policies / "absent": "No such file or directory"}


def test_both_ends_of_links_and_the_nearest_folder_that_exists_are_watched(tmp_path):
    tmp_path = tmp_path.resolve()
    real, links = tmp_path / "real", tmp_path / "links"
    real.mkdir()
    links.mkdir()
    (real / "mine.yaml").write_text("one")
    (links / "policies.d").symlink_to("../real")
    (links / "round").symlink_to("round")
    assert folders([links / "policies.d"]) == {links, tmp_path, real}
    assert folders([real / "mine.yaml"]) == {real}
    assert folders([tmp_path / "not" / "yet" / "there"]) == {tmp_path}
    assert folders([links / "round" / "mine.yaml"]) == {links}
    assert folders([]) == frozenset()
