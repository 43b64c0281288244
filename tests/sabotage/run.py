"""Applies each patch to a copy of the tree and demands that the tests it names turn red.

    python -m tests.sabotage.run                 every patch
    python -m tests.sabotage.run NAME...         these (names of files in patches/, or the beginnings of such)
    python -m tests.sabotage.run --list          what there is, without running anything
    python -m tests.sabotage.run --check         only whether every patch still applies

An error is: a patch that does not apply, a named test that is red without the patch or does not exist, and a named test
that stays green with it. The status is 0 only if there was none.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).resolve().parent / "patches"
COPIED = ("src", "tests", "bench", "pyproject.toml", "scripts", "README.md")
SECONDS = 120
"""Most that the tests of one patch may take: a fault that shows as a hang must be caught by the test itself."""
NODE_ID = re.compile(r"tests/[\w/]+\.py(?:::\w+(?:\[.*\])?)?")
OUTCOME = re.compile(r"^(?:FAILED|ERROR) (tests/\S+\.py(?:::\w+)?)", re.MULTILINE)


class BadPatch(Exception):
    """A patch file whose header does not say what it must."""


@dataclass(frozen=True)
class Patch:
    """A fault: the promise it breaks, the tests that must notice, and the difference that makes it."""

    name: str
    promise: str
    tests: tuple[str, ...]
    diff: str

    @property
    def files(self) -> tuple[str, ...]:
        """What it changes, below the root."""
        return tuple(re.findall(r"^\+\+\+ b/(\S+)", self.diff, re.MULTILINE))


@dataclass(frozen=True)
class Ran:
    """pytest's status (None: too slow), the seconds of processor time that it took, and what it said."""

    status: int | None
    cpu: float
    output: str


@dataclass(frozen=True)
class Result:
    """``problem`` is empty if the fault was noticed by every test that must notice it."""

    patch: Patch
    seconds: float
    cpu: float
    problem: str = ""
    output: str = ""


def read_patch(path: Path) -> Patch:
    """Raises BadPatch."""
    text = path.read_text(encoding="utf-8")
    header, _, diff = text.partition("--- a/")
    fields = dict(re.findall(r"^(Promise|Tests): *(.+(?:\n[ \t]+.+)*)", header, re.MULTILINE))
    tests = tuple(fields.get("Tests", "").split())
    patch = Patch(path.stem, " ".join(fields.get("Promise", "").split()), tests, "--- a/" + diff)
    if not diff or not patch.promise:
        raise BadPatch(f"{path.name}: a header with Promise: and Tests:, then a unified difference")
    if not tests or not all(NODE_ID.fullmatch(test) for test in tests):
        raise BadPatch(f"{path.name}: Tests: names pytest ids, tests/room/test_x.py::test_y")
    if not patch.files or not all(name.startswith("src/") for name in patch.files):
        raise BadPatch(f"{path.name}: it may change files below src/ only")
    return patch


def read_patches(names: Sequence[str] = ()) -> list[Patch]:
    """The patches whose file names begin with one of ``names``, or all. Raises BadPatch."""
    paths = sorted(PATCHES.glob("*.patch"))
    for name in names:
        if not any(path.stem.startswith(Path(name).stem) for path in paths):
            raise BadPatch(f"there is no patch {name}")
    chosen = [path for path in paths if not names or any(path.stem.startswith(Path(n).stem) for n in names)]
    return [read_patch(path) for path in chosen]


class Copy:
    """A copy of the tree in which patches come and go, and a worker that runs tests in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules")
                )
            elif source.exists():
                shutil.copy2(source, root / name)
        # What patched files must be put back to, whatever happens to the original tree meanwhile.
        self._clean = {str(path.relative_to(root)): path.read_bytes() for path in (root / "src").rglob("*.py")}
        self._worker: subprocess.Popen[str] | None = None

    def apply(self, patch: Patch) -> str:
        """What went wrong, or nothing."""
        # One line around is enough: what a fault changes must be there to the letter, its neighbours may move.
        command = ["git", "apply", "--whitespace=nowarn", "-C1", "-"]
        # Outside of any repository, or git would look for the files there.
        env = os.environ | {"GIT_CEILING_DIRECTORIES": str(self.root.parent), "GIT_DIR": str(self.root / "none")}
        done = subprocess.run(
            command, cwd=self.root, env=env, input=patch.diff, text=True, capture_output=True, check=False
        )
        return done.stderr.strip() if done.returncode else ""

    def restore(self, patch: Patch) -> None:
        for name in patch.files:
            clean = self._clean.get(name)
            if clean is None:
                (self.root / name).unlink(missing_ok=True)
            else:
                (self.root / name).write_bytes(clean)

    def _environment(self) -> dict[str, str]:
        # Bytecode is made once and told apart by the text it was made of: a patch may keep size and second of a file.
        return os.environ | {"PYTHONPATH": str(self.root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self) -> None:
        """Compile, and start the worker. Raises BadPatch if the tests would not run against this copy."""
        where = "import salama; print(salama.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", where],
            cwd=self.root,
            env=self._environment(),
            text=True,
            capture_output=True,
            check=False,
        )
        if not done.stdout.startswith(str(self.root)):
            raise BadPatch("the tests would run against another copy of salama than the patched one")
        for name in ("src", "tests"):
            compileall.compile_dir(
                self.root / name, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
            )
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "tests.sabotage.worker"],
            cwd=self.root, env=self._environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.communicate()

    def test(self, tests: Iterable[str], seconds: int = SECONDS) -> Ran:
        """Run pytest."""
        assert self._worker is not None and self._worker.stdin is not None and self._worker.stdout is not None
        output = self.root / "output"
        output.unlink(missing_ok=True)
        self._worker.stdin.write(json.dumps({"tests": list(tests), "output": str(output), "seconds": seconds}) + "\n")
        self._worker.stdin.flush()
        answer = self._worker.stdout.readline()
        if not answer:
            raise BadPatch("the worker that runs the tests has ended")
        said = output.read_text("utf-8", "replace") if output.exists() else ""
        return Ran(output=said, **json.loads(answer))


def unnoticed(patch: Patch, output: str) -> list[str]:
    """Named tests without any failure in ``output``."""
    failed = set(OUTCOME.findall(output))
    files = {name.partition("::")[0] for name in failed}
    return [
        test for test in patch.tests if (test.partition("[")[0] not in failed if "::" in test else test not in files)
    ]


def judge(copy: Copy, patch: Patch, bad: Mapping[str, str]) -> Result:
    """Apply, test, put back; ``bad`` says what is wrong with tests that do not work without any fault."""
    began = time.monotonic()

    def result(problem: str, ran: Ran) -> Result:
        return Result(patch, time.monotonic() - began, ran.cpu, problem, ran.output)

    if broken := [f"{test} {bad[test]}" for test in patch.tests if test in bad]:
        return result("; ".join(broken), Ran(None, 0.0, ""))
    refusal = copy.apply(patch)
    try:
        if refusal:
            return result("does not apply", Ran(None, 0.0, refusal))
        ran = copy.test(patch.tests)
        if ran.status is None:
            return result(f"not done in {SECONDS} s", ran)
        if ran.status == 0:
            return result("NOT NOTICED", ran)
        if ran.status != 1:
            return result(f"pytest ended with status {ran.status}", ran)
        missed = unnoticed(patch, ran.output)
        return result(f"not noticed by {', '.join(missed)}" if missed else "", ran)
    finally:
        copy.restore(patch)


def run(patches: Sequence[Patch], jobs: int) -> list[Result]:
    """Judge all, ``jobs`` at a time; prints as it goes."""
    with tempfile.TemporaryDirectory(prefix="salama-sabotage-") as directory, ThreadPoolExecutor(jobs) as pool:
        made = [Copy(_made(Path(directory) / str(number))) for number in range(jobs)]
        try:
            list(pool.map(Copy.start, made))
            bad = _clean_run(patches, made, pool)
            copies: SimpleQueue[Copy] = SimpleQueue()
            for copy in made:
                copies.put(copy)

            def one(patch: Patch) -> Result:
                copy = copies.get()
                try:
                    done = judge(copy, patch, bad)
                finally:
                    copies.put(copy)
                verdict = done.problem or "noticed"
                print(f"  {patch.name:<42} {done.seconds:5.1f} s, {done.cpu:4.1f} of cpu  {verdict}", flush=True)
                return done

            return list(pool.map(one, patches))
        finally:
            for copy in made:
                copy.stop()


def _clean_run(patches: Sequence[Patch], copies: Sequence[Copy], pool: ThreadPoolExecutor) -> dict[str, str]:
    """What is wrong with the named tests without any fault, those alone that do not exist or are red."""
    tests = sorted({test for patch in patches for test in patch.tests})
    print(f"{len(patches)} faults; first their {len(tests)} tests without any of them", flush=True)
    began = time.monotonic()
    # Dealt out by file, so that a fixture of a file is made once.
    files = sorted({test.partition("::")[0] for test in tests})
    shares = [set(files[number :: len(copies)]) for number in range(len(copies))]
    dealt = [[test for test in tests if test.partition("::")[0] in share] for share in shares]
    bad: dict[str, str] = {}
    for found in pool.map(_red_without_fault, copies, dealt):
        bad |= found
    print(f"  {len(tests) - len(bad)} green, {time.monotonic() - began:.1f} s", flush=True)
    return bad


def _red_without_fault(copy: Copy, tests: Sequence[str]) -> dict[str, str]:
    bad: dict[str, str] = {}
    while left := [test for test in tests if test not in bad]:
        ran = copy.test(left, 5 * SECONDS)
        if ran.status == 0:
            break
        if ran.status == 1:
            red = _red(left, ran)
            # Once more: that a busy machine is too slow for a test is the matter of `make test`.
            again = copy.test(red, 5 * SECONDS)
            still = red if again.status not in (0, 1) else _red(red, again) if again.status else []
            return bad | dict.fromkeys(still, "is red without the fault")
        missing = re.findall(
            r"^ERROR: (?:not found|file or directory not found): \S*?(tests/\S+)", ran.output, re.MULTILINE
        )
        found = {test: "does not exist" for test in left if test in missing}
        if not found:
            print(ran.output[-4000:])
            raise BadPatch(f"the tests did not run: pytest ended with status {ran.status}")
        # Nothing was run at all.
        bad |= found
    return bad


def _red(tests: Sequence[str], ran: Ran) -> list[str]:
    green = set(unnoticed(Patch("", "", tuple(tests), ""), ran.output))
    return [test for test in tests if test not in green]


def check(patches: Sequence[Patch]) -> int:
    """Name every patch that does not apply any more."""
    with tempfile.TemporaryDirectory(prefix="salama-sabotage-") as directory:
        copy = Copy(_made(Path(directory) / "0"))
        refusals = {}
        for patch in patches:
            refusals[patch.name] = copy.apply(patch)
            copy.restore(patch)
    bad = {name: refusal for name, refusal in refusals.items() if refusal}
    for name, refusal in bad.items():
        print(f"{name} does not apply:\n{refusal}")
    print(f"{len(patches) - len(bad)} of {len(patches)} patches apply")
    return 1 if bad else 0


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def show(results: Sequence[Result]) -> int:
    """The table, and the exit status."""
    bad = [result for result in results if result.problem]
    for result in bad:
        print(f"\n{result.patch.name}: {result.problem}\n  promise: {result.patch.promise}")
        print("  " + "\n  ".join(result.output.strip().splitlines()[-15:]))
    width = max((len(result.patch.name) for result in results), default=0)
    print("\n" + "fault".ljust(width) + "  promise")
    for result in results:
        mark = "noticed" if not result.problem else result.problem.upper()
        print(f"{result.patch.name:<{width}}  {result.patch.promise}  [{mark}]")
    cpu = sum(result.cpu for result in results)
    print(
        f"\n{len(results) - len(bad)} of {len(results)} faults noticed; their tests took {cpu:.0f} s of processor time"
    )
    return 1 if bad else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sabotage.run", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="patches, by the beginning of their names; default all")
    parser.add_argument("--list", action="store_true", help="only show what there is")
    parser.add_argument("--check", action="store_true", help="only see whether they apply")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time")
    chosen = parser.parse_args(arguments)
    try:
        patches = read_patches(chosen.names)
        if chosen.list:
            for patch in patches:
                print(f"{patch.name}: {patch.promise}")
            return 0
        if chosen.check:
            return check(patches)
        return show(run(patches, max(1, chosen.jobs)))
    except BadPatch as problem:
        print(f"sabotage: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
