"""An older release of KeyVigil, out of the repository's own history, to be upgraded from."""

import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from keyvigil_cli.checkout import Checkout

OLDEST = "ab856309467ee664d4128126c13e7732b2b2c831"
"""The oldest commit that locks and unlocks: before it, no answer reached a workflow for want of a permission. It claims
no roles, counts no executions and keeps no answers, and can still be deployed with today's tools. When that ends, name
the oldest that can be."""


class NoOlderReleaseError(Exception):
    """The older release cannot be had from this checkout. The message says why, and what to do."""


def older_release(checkout: Checkout, commit: str = OLDEST) -> Checkout:
    """Return a checkout of the commit, with this one's tools. It is kept: a commit never changes.

    Raises:
        NoOlderReleaseError: git, its data or the commit are not there.
    """
    home = checkout.root / ".local-cloud" / "releases"
    place = home / commit
    if not place.is_dir():
        content = _archive(checkout.root, commit)
        home.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=home))
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(folder, filter="data")
        for tools in (".tools", ".venv"):
            (folder / tools).symlink_to(Path("../../..") / tools)
        try:
            folder.rename(place)
        except OSError:  # another run was faster
            shutil.rmtree(folder)
    return Checkout(place)


def _archive(root: Path, commit: str) -> bytes:
    if shutil.which("git") is None:
        message = "git is not installed, and the older release that is upgraded from is in the repository's history"
        raise NoOlderReleaseError(message)
    if _git(root, "rev-parse", "--git-dir").returncode != 0:
        message = f"{root} is no git checkout, so the older release that is upgraded from is missing: clone KeyVigil"
        raise NoOlderReleaseError(message)
    archive = _git(root, "archive", "--format=tar", commit)
    if archive.returncode == 0:
        return archive.stdout
    if _git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true":
        message = f"the clone in {root} is shallow and lacks the older release {commit}: run `git fetch --unshallow`"
        raise NoOlderReleaseError(message)
    message = f"git cannot give {commit} of {root}: {archive.stderr.decode().strip()}"
    raise NoOlderReleaseError(message)


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    # Whoever runs the tests may not own the checkout, in a container say; it is only read.
    return subprocess.run(
        ["git", "-C", root, "-c", f"safe.directory={root}", *arguments], capture_output=True, check=False, timeout=60
    )
