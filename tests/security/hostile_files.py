"""Hostile files under a limit of memory: each is refused, or is what it says.

python -m tests.security.hostile_files FOLDER EXAMPLES
"""

import json
import math
import os
import resource
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge import errors
from evomerge.files import bank, folder, header, plain

ROOM = 200_000_000
SLOWEST = 5.0
"""Seconds of processor that one file may take."""

sizes = st.integers(-2, 70) | st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, 2**63, 10**30])
odd = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | sizes
dtypes = st.sampled_from([*header.DTYPES, "F8_E4M3", "", "f32"]) | odd
shapes = st.lists(sizes, max_size=4) | odd
spans = st.lists(sizes, max_size=3) | odd
names = st.text(max_size=6) | st.sampled_from(["../x", "a", "b", "__metadata__", "/etc/passwd"])
entries = st.fixed_dictionaries(
    {}, optional={"dtype": dtypes, "shape": shapes, "data_offsets": spans, "evil": odd}
)
pairs = st.lists(st.tuples(names, entries | odd), max_size=4)
"""Pairs, not a mapping: a name may stand twice."""


@st.composite
def tiled(draw):
    """Sound entries one after the other, of which at most one span is moved or stretched."""
    found, end = [], 0
    for i in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        code = draw(st.sampled_from(list(header.DTYPES)))
        size = math.prod(shape) * header.DTYPES[code].itemsize
        span = [end, end + size]
        found.append((f"t{i}", {"dtype": code, "shape": shape, "data_offsets": span}))
        end += size
    if found and draw(st.booleans()):
        span = draw(st.sampled_from(found))[1]["data_offsets"]
        span[draw(st.integers(0, 1))] += draw(st.integers(-9, 9))
    return found


def text_of(found) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(e)}" for name, e in found) + "}"


def attempt(path: Path) -> dict[str, header.TensorInfo] | None:
    begun = time.process_time()
    try:
        return header.read(path)
    except errors.InputError as error:
        assert str(path) in str(error) and len(str(error)) < 600
        return None
    finally:
        assert time.process_time() - begun < SLOWEST


def fuzz_headers(place: Path, examples: int) -> None:
    path = place / "x.safetensors"
    counts = {"sound": 0, "refused": 0}

    @settings(max_examples=examples, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        (pairs | tiled() | tiled() | tiled()).map(text_of).map(str.encode)
        | st.binary(max_size=40),
        st.integers(0, 64) | st.just(-1) | st.just(-1),
        st.sampled_from([0, 0, 0, 1, -1, 2**32, 2**63, 2**64 - 1]),
    )
    def one(text, room, lie):
        length = min(max(len(text) + lie, 0), 2**64 - 1)
        data = _end(text) if room < 0 else room
        path.write_bytes(length.to_bytes(8, "little") + text + bytes(data))
        found = attempt(path)
        counts["sound" if found is not None else "refused"] += 1
        end = 8 + len(text)
        for info in found.values() if found else ():
            assert info.start == end and info.bytes == info.numel * info.dtype.itemsize
            end = info.stop
        assert found is None or end == path.stat().st_size

    one()
    assert min(counts.values()) > examples / 50, counts  # else it tests one side only
    print("headers", counts)


def _end(text: bytes) -> int:
    """Bytes that a header's last tensor asks for, so that many files are sound."""
    try:
        spans = [entry["data_offsets"][1] for entry in json.loads(text).values()]
        return max(0, min(max(spans, default=0), 2000))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return 0


def absurd_files(place: Path) -> None:
    """Files that claim, or sparsely are, far more than there is memory for."""
    path = place / "x.safetensors"
    for begin, size in ((b"{", 99_999_000), (b"\0", 99_999_000), (b"{", 10**12)):
        with path.open("wb") as file:
            file.write((size - 8).to_bytes(8, "little") + begin)
            file.truncate(size)
        assert attempt(path) is None
    path.write_bytes((90_000_000).to_bytes(8, "little") + b'{"x":' + b"[" * 1000)
    assert attempt(path) is None
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    text = text_of([("x", entry)]).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    assert attempt(path) is None
    with path.open("r+b") as file:  # four terabytes that are there, as far as a file can tell
        file.truncate(8 + len(text) + 2**42)
    found = attempt(path)
    assert found is not None and found["x"].numel == 2**40


YAMLS = [
    "a0: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{i + 1}: &{c} [{','.join(['*' + p] * 9)}]\n"
              for i, (p, c) in enumerate(zip("abcdefgh", "bcdefghi", strict=True))),
    "a: " + "[" * 400_000,
    "a: " + "{b: " * 100_000,
    "".join(f"{' ' * i}a:\n" for i in range(1200)),
    "a: 1" + ":1" * 300_000,
    "a: 1" + ":1" * 300_000 + ".5",
    "a: " + "9" * 900_000,
    "a: !!python/object/apply:os.system [touch x]",
    "a: !!binary " + "A" * 900_000,
    "? " * 100_000,
    "- " * 100_000,
    "a: !!set {? " + "x" * 1000 + "}",
    "%YAML 9.9\n---\na: 1\n",
    "a: b\n---\nc: d\n",
]  # fmt: skip


def hostile_yaml(place: Path, examples: int) -> None:
    path = place / "x.yaml"

    def one(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        begun = time.process_time()
        for read in (plain.read_yaml, bank.load):
            try:
                assert isinstance(read(path), dict | bank.Bank)
            except errors.EvomergeError as error:
                assert str(path) in str(error) and len(str(error)) < 1000
        assert time.process_time() - begun < 4 * SLOWEST, text[:40]

    for text in YAMLS:
        one(text)
    grammar = st.lists(
        st.sampled_from([*"[]{},:-?&*!|>%@`'\"#\n \tab1.~", "<<: ", "a: ", "\n- ", "!!int "]),
        max_size=30,
    ).map("".join)
    settings(max_examples=examples, deadline=None, database=None,
             suppress_health_check=list(HealthCheck))(given(grammar)(one))()  # fmt: skip
    print("yaml", examples)


def paths(place: Path, examples: int) -> None:
    """No name leads out of a folder, whatever links and folders there are in it."""
    (place / "out").mkdir()
    (place / "out" / "x.safetensors").write_text("secret")
    inner = place / "model"
    (inner / "sub").mkdir(parents=True)
    (inner / "sub" / "up").symlink_to("..")
    (inner / "away").symlink_to(place / "out")
    (inner / "file.safetensors").symlink_to("../out/x.safetensors")
    (inner / "round").symlink_to("round")
    parts = st.sampled_from(
        ["..", ".", "", "sub", "up", "away", "round", "file.safetensors", "x.safetensors", "~",
         "C:", "\\\\unc", "..\\", "\0", "\n", "\u202e", "%2e%2e", "\u2025", "a" * 300]
    )  # fmt: skip
    plain_parts = st.sampled_from(["sub", "x.safetensors", "up", "a"])
    seen = {"inside": 0, "refused": 0}

    @settings(max_examples=examples, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        st.lists(plain_parts | parts | st.text(max_size=4), min_size=1, max_size=5).map("/".join)
    )
    def one(name):
        try:
            found = folder.inside(inner, name, "w")
        except errors.InputError as error:
            assert str(error).startswith("w: ")
            seen["refused"] += 1
            return
        seen["inside"] += 1
        assert Path(os.path.realpath(found)).is_relative_to(os.path.realpath(inner))
        assert not found.is_file() or found.read_text() != "secret"

    one()
    assert min(seen.values()) > examples / 50, seen
    print("paths", seen)


def main() -> None:
    place, examples = Path(sys.argv[1]), int(sys.argv[2])
    # in a new checkout hypothesis first makes a table of all characters, of some 200 MB itself
    settings(max_examples=1, database=None)(given(st.text())(lambda text: None))()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    baseline = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (baseline + ROOM, resource.RLIM_INFINITY))
    try:
        bytearray(ROOM + 100_000_000)
    except MemoryError:
        pass
    else:
        raise AssertionError("the limit of memory does not hold")
    fuzz_headers(place, examples)
    absurd_files(place)
    hostile_yaml(place, examples)
    paths(place, examples)


if __name__ == "__main__":
    main()
