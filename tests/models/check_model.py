"""Check the protocol's model with spin: the sound model keeps every property, each broken one loses exactly its own.

    make check-model                       everything
    python tests/models/check_model.py --sound | --broken

It prints a line for each verification: the model, its bounds, the property, what came of it, states, depth and seconds.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("protocol.pml")
NEEDS = {"spin": "spin", "gcc": "gcc"}
MEGABYTES = 2000
SECONDS = 600
"""What a verification may take at most. On two idle cores the longest takes about a minute."""
DEPTH = 20_000

PROPERTIES = (
    "outage_locks",
    "outage_locks_in_the_end",
    "recovery_unlocks",
    "no_older_fence_wins",
    "no_lock_without_confirmation",
)
EVERY_RUN_ENDS = "every_run_ends"
NOBODY_IS_STUCK = "nobody_is_stuck"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much world there is: see the head of protocol.pml."""

    clusters: int
    flips: int
    mishaps: int
    registrations: int

    @property
    def defines(self) -> list[str]:
        return [
            f"-DCLUSTERS={self.clusters}",
            f"-DFLIPS={self.flips}",
            f"-DMISHAPS={self.mishaps}",
            f"-DREGISTRATIONS={self.registrations}",
        ]

    def __str__(self) -> str:
        return (
            f"{self.clusters} clusters, {self.flips} flips, {self.mishaps} mishaps, {self.registrations} registrations"
        )


SOUND = (
    Bounds(clusters=1, flips=4, mishaps=1, registrations=1),
    Bounds(clusters=1, flips=3, mishaps=2, registrations=0),
    Bounds(clusters=2, flips=3, mishaps=1, registrations=1),
)
"""Two outages of one key and its cluster; more that goes wrong in one or two of them; two clusters, one of them new."""

SMALL = Bounds(clusters=1, flips=3, mishaps=1, registrations=0)
ONE_IS_NEW = Bounds(clusters=2, flips=2, mishaps=1, registrations=1)
MUCH_GOES_WRONG = Bounds(clusters=1, flips=3, mishaps=2, registrations=0)

BREAKS: Mapping[str, tuple[Bounds, frozenset[str]]] = {
    "BREAK_REGISTRATION": (ONE_IS_NEW, frozenset({"outage_locks"})),
    "BREAK_SETTLING": (SMALL, frozenset({"outage_locks"})),
    "BREAK_MENDING_LOCKOUTS": (SMALL, frozenset({"outage_locks_in_the_end"})),
    "BREAK_LEFT_OUT": (MUCH_GOES_WRONG, frozenset({"outage_locks_in_the_end"})),
    "BREAK_MENDING_RECOVERIES": (SMALL, frozenset({"recovery_unlocks"})),
    "BREAK_ORPHANS": (SMALL, frozenset({"recovery_unlocks"})),
    "BREAK_FENCE": (SMALL, frozenset({"no_older_fence_wins"})),
    "BREAK_STALE_ANSWER": (SMALL, frozenset({"no_older_fence_wins"})),
    "BREAK_CONFIRMATION": (SMALL, frozenset({"no_lock_without_confirmation"})),
    "BREAK_UNKNOWN": (SMALL, frozenset({"no_lock_without_confirmation"})),
    "BREAK_BLIND": (SMALL, frozenset({"no_lock_without_confirmation"})),
    "BREAK_WAKING": (SMALL, frozenset({"recovery_unlocks"})),
}
"""Each deliberate break (an #ifdef of protocol.pml), the bounds that show it, and the properties that it costs."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of one search."""

    holds: bool
    states: str
    depth: str
    seconds: float
    megabytes: str
    output: str


class Verifier:
    """A model with its bounds, translated by spin and compiled for each kind of search."""

    def __init__(self, folder: Path, bounds: Bounds, broken: str | None) -> None:
        self._folder = folder
        self._compiled: dict[str, Path] = {}
        self._defines = [*bounds.defines, *([f"-D{broken}"] if broken else [])]

    def verify(self, name: str) -> Verification:
        """Search the whole of what the bounds allow.

        Raises:
            IncompleteError: the search ended early, so it says nothing.
        """
        match name:
            case "every_run_ends":
                pan, options = self._compile("cycles", "-DNP", "-DNOSTUTTER", "-DNOCLAIM"), ["-l"]
            case "nobody_is_stuck":
                pan, options = self._compile("safety", "-DSAFETY", "-DNOCLAIM"), []
            case _:
                pan, options = self._compile("claims"), ["-a", "-N", name]
        began = time.monotonic()
        ran = subprocess.run(
            [pan, f"-m{DEPTH}", *options], cwd=pan.parent, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        output = ran.stdout + ran.stderr
        found = re.search(r"errors: (\d+)", output)
        errors = int(found[1]) if found else -1
        too_little = "max search depth too small" in output or "out of memory" in output or "memory bound" in output
        if errors < 0 or too_little or ("Search not completed" in output and errors == 0):
            raise IncompleteError(output)
        return Verification(
            holds=errors == 0,
            states=_number(r"([\d.e+]+) states, stored", output),
            depth=_number(r"depth reached (\d+)", output),
            seconds=time.monotonic() - began,
            megabytes=_number(r"([\d.]+)\s+total actual memory", output),
            output=output,
        )

    def _compile(self, kind: str, *options: str) -> Path:
        if kind not in self._compiled:
            folder = self._folder / kind
            folder.mkdir()
            for command in (
                ["spin", "-a", *self._defines, str(MODEL)],
                ["gcc", "-O2", "-w", "-DCOLLAPSE", f"-DMEMLIM={MEGABYTES}", *options, "-o", "pan", "pan.c"],
            ):
                ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
                if ran.returncode != 0:
                    message = f"{' '.join(command)} failed:\n{ran.stdout}{ran.stderr}"
                    raise SystemExit(message)
            self._compiled[kind] = folder / "pan"
        return self._compiled[kind]


class IncompleteError(Exception):
    """A search ended before it had seen all states."""


def _number(pattern: str, output: str) -> str:
    found = re.search(pattern, output)
    return found[1] if found else "?"


def _install_what_is_missing() -> None:
    """Install spin and a C compiler where that needs no password; else say what to do."""
    missing = [package for command, package in NEEDS.items() if shutil.which(command) is None]
    if not missing:
        return
    command = f"sudo apt-get update && sudo apt-get install {' '.join(missing)}"
    advice = f"`make check-model` needs {' and '.join(missing)}: {command}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(advice)
    print(f"Installing {' and '.join(missing)} with apt-get", flush=True)
    for step in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", *missing]):
        ran = subprocess.run(step, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise SystemExit(f"{' '.join(step)} failed:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}\n{advice}")


def _tell(model: str, name: str, found: Verification, *, as_expected: bool) -> None:
    word = "holds" if found.holds else "fails"
    print(
        f"  {'ok ' if as_expected else 'NOT'} {model:<26} {name:<30} {word}  {found.states:>8} states  "
        f"depth {found.depth:>5}  {found.seconds:6.1f} s  {found.megabytes} MB",
        flush=True,
    )


def _unreached(output: str) -> set[str]:
    """The lines of the model that a search never came to."""
    return set(re.findall(r"protocol\.pml:(\d+), state \d+, \"(?!-end-)", output))


def check_sound(folder: Path) -> int:
    """Verify every property within every bounds; say how many did not hold as they should."""
    wrong = 0
    reached_nowhere: set[str] | None = None
    for number, bounds in enumerate(SOUND):
        print(f"The model as it should be: {bounds}", flush=True)
        place = folder / f"sound-{number}"
        place.mkdir()
        verifier = Verifier(place, bounds, None)
        for name in (NOBODY_IS_STUCK, EVERY_RUN_ENDS, *PROPERTIES):
            found = verifier.verify(name)
            wrong += not found.holds
            _tell("sound", name, found, as_expected=found.holds)
            if name == NOBODY_IS_STUCK:
                lines = _unreached(found.output)
                reached_nowhere = lines if reached_nowhere is None else reached_nowhere & lines
    _show_unreached(reached_nowhere or set())
    return wrong


def _show_unreached(numbers: set[str]) -> None:
    """Show the lines of which some instance was reached within no bounds; docs/models.md says why that is right."""
    lines = MODEL.read_text(encoding="utf-8").splitlines()
    print(f"Lines of which an instance (an inline, a macro) was reached within no bounds: {len(numbers)}")
    for number in sorted(numbers, key=int):
        print(f"  {number:>4}  {lines[int(number) - 1].strip()}")


def check_broken(folder: Path) -> int:
    """Break the model in each way; say how many breaks cost other properties than they should."""
    wrong = 0
    print("The model broken on purpose: each break costs the properties named, and no other", flush=True)
    for broken, (bounds, costs) in BREAKS.items():
        place = folder / broken
        place.mkdir()
        verifier = Verifier(place, bounds, broken)
        for name in PROPERTIES:
            found = verifier.verify(name)
            as_expected = found.holds is (name not in costs)
            wrong += not as_expected
            _tell(broken, name, found, as_expected=as_expected)
    return wrong


def main() -> int:
    """Check everything, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sound", action="store_true", help="only the model as it should be")
    parser.add_argument("--broken", action="store_true", help="only the deliberate breaks")
    asked = parser.parse_args()
    _install_what_is_missing()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="keyvigil-model-") as folder:
        try:
            if not asked.broken:
                wrong += check_sound(Path(folder))
            if not asked.sound:
                wrong += check_broken(Path(folder))
        except IncompleteError as error:
            print(f"A search ended before it had seen everything:\n{error}")
            return 1
        except subprocess.TimeoutExpired:
            print(f"A search took longer than {SECONDS} s")
            return 1
    print("The model holds, and every break is caught" if wrong == 0 else f"{wrong} things are not as they should be")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
