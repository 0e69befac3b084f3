"""Tags name releases: in one move, checked, and resolved wherever a release is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from simpipe import files, releases, tags
from simpipe.cli import main
from simpipe.errors import ReleaseError
from tests.plain_releases import make_plain


def test_tags_are_set_moved_listed_and_removed(tmp_path: Path) -> None:
    one, two = make_plain(tmp_path, 1), make_plain(tmp_path, 2)
    assert tags.read_tags(tmp_path) == {}
    assert tags.set_tag(tmp_path, "good", one) is None
    assert tags.set_tag(tmp_path, "good", one) == one
    assert tags.set_tag(tmp_path, "good", two) == one
    tags.set_tag(tmp_path, "a.b_c-9", one)
    found = tags.read_tags(tmp_path)
    assert {name: tag.release for name, tag in found.items()} == {"a.b_c-9": one, "good": two}
    assert all(tag.tagged_at.endswith("Z") for tag in found.values())
    assert tags.resolve(tmp_path, "good") == two
    assert releases.find(tmp_path, "good")[1].release == two
    assert tags.remove_tag(tmp_path, "good") == two
    assert tags.resolve(tmp_path, "good") == "good"
    with pytest.raises(ReleaseError, match=r"no tag 'good'; there are: a\.b_c-9"):
        tags.remove_tag(tmp_path, "good")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "ä", "a b", "x" * 65, "a\n"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    release = make_plain(tmp_path, 1)
    with pytest.raises(ReleaseError, match="not a name"):
        tags.set_tag(tmp_path, name, release)
    assert tags.resolve(tmp_path, name) == name, "left to who looks for the release"


@pytest.mark.parametrize("name", ["live", "previous", "20250101T000000Z-abcdef", "20250101T000000Z-x"])
def test_names_that_mean_something_else_are_refused(tmp_path: Path, name: str) -> None:
    release = make_plain(tmp_path, 1)
    with pytest.raises(ReleaseError, match=r"means the pointer's release|looks like a release id"):
        tags.set_tag(tmp_path, name, release)


def test_only_finished_releases_are_tagged(tmp_path: Path) -> None:
    folder = releases.start_release(tmp_path, "0" * 64)
    for release in (folder.name, "20200101T000000Z-abcdef"):
        with pytest.raises(ReleaseError, match="no such release"):
            tags.set_tag(tmp_path, "x", release)
    assert tags.read_tags(tmp_path) == {}


def test_live_and_previous_are_names(tmp_path: Path) -> None:
    one, two = make_plain(tmp_path, 1), make_plain(tmp_path, 2)
    with pytest.raises(ReleaseError, match="nothing is published"):
        releases.find(tmp_path, "live")
    releases.publish(tmp_path, one, needed_steps=())
    with pytest.raises(ReleaseError, match="no previous release"):
        releases.find(tmp_path, "previous")
    releases.publish(tmp_path, two, needed_steps=())
    assert [releases.find(tmp_path, name)[1].release for name in ("live", "previous")] == [two, one]


@pytest.mark.parametrize("content", ["", "[]", '{"release": 3, "tagged_at": "x"}', '{"release": "x"}'])
def test_a_damaged_tag_is_named(tmp_path: Path, content: str) -> None:
    files.write_bytes(tmp_path / "tags" / "good.json", content.encode())
    for use in (lambda: tags.read_tags(tmp_path), lambda: releases.find(tmp_path, "good")):
        with pytest.raises(ReleaseError, match=r"good\.json: damaged, not a tag"):
            use()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = make_plain(tmp_path, 1), make_plain(tmp_path, 2)
    releases.publish(tmp_path, one, needed_steps=())
    at = ["--set", f"root={tmp_path}"]
    assert main(["tag", "good", *at]) == 0
    assert main(["tag", "good", "--release", two, *at]) == 0
    assert main(["tag", "good", "--release", "good", *at]) == 0
    assert main(["tag", "live", *at]) == 1
    assert main(["tag", "good", "--remove", *at]) == 0
    assert main(["rollback", *at]) == 1
    said = capsys.readouterr().err
    for expected in (f"good is {one}", f"good is {two} (before: {one})", f"good is {two} already", f"good removed (was {two})"):
        assert f"tag        {expected}\n" in said
    assert "means the pointer's release" in said
    assert tags.read_tags(tmp_path) == {}
