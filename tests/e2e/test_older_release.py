"""The older release comes out of the history, and who has no history is told what to do."""

import subprocess
from pathlib import Path

import pytest

from keyvigil_cli.checkout import Checkout
from tests.e2e.older_release import OLDEST, NoOlderReleaseError, older_release

ROOT = Checkout.find(Path(__file__).parent).root


def clone(folder: Path, *options: str) -> Checkout:
    url = f"file://{ROOT}"
    subprocess.run(["git", "-c", f"safe.directory={ROOT}", "clone", "-q", *options, url, folder], check=True)
    return Checkout(folder)


def test_the_older_release_is_as_it_was_then_and_has_todays_tools(tmp_path: Path) -> None:
    mine = clone(tmp_path / "clone")

    release = older_release(mine)

    assert older_release(mine) == release
    assert not (release.root / "layers/keyvigil/keyvigil/adapters/item_schemas.py").exists()
    assert "RoleClaim" not in (release.root / "layers/keyvigil/keyvigil/domain/keys.py").read_text(encoding="utf-8")
    assert release.template.is_file()
    assert (release.root / "layers/keyvigil/layer.mk").is_file()
    assert (release.root / ".tools").resolve() == (mine.root / ".tools").resolve()


def test_a_shallow_clone_is_told_to_fetch_the_rest(tmp_path: Path) -> None:
    shallow = clone(tmp_path / "clone", "--depth=1")

    with pytest.raises(NoOlderReleaseError, match=f"is shallow and lacks the older release {OLDEST}: run `git fetch"):
        older_release(shallow)


def test_a_folder_without_history_is_told_to_be_a_clone(tmp_path: Path) -> None:
    with pytest.raises(NoOlderReleaseError, match="is no git checkout"):
        older_release(Checkout(tmp_path))


def test_a_commit_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoOlderReleaseError, match="git cannot give 0123456789"):
        older_release(clone(tmp_path / "clone"), "0123456789" * 4)
