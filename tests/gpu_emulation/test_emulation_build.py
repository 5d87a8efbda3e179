"""Modules of emulated kernels: kept by their content, and a reason where they cannot be built."""

import subprocess
from pathlib import Path

import pytest

from . import build
from .emulated import kernels

PLANTED = build.HERE / "planted.cpp"


def test_every_file_that_a_module_includes_counts() -> None:
    names = {file.name for file in build.files_of(PLANTED)}
    assert {
        "planted.cpp",
        "planted.cuh",
        "arrays.h",
        "device.cuh",
        "maps.h",
        "portable.h",
        "races.h",
    } <= names


def test_a_module_is_kept_until_its_content_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels("planted")  # skips where nothing can be built
    monkeypatch.setenv("LMDIS_FAST_EMULATION_CACHE", str(tmp_path / "cache"))
    compiled: list[str] = []
    run = subprocess.run

    def counted(command: list[str], **options: object) -> object:
        if "-o" in command:
            compiled.append(command[command.index("-o") + 1])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    header, source = tmp_path / "part.h", tmp_path / "part.cpp"
    header.write_text("#define NUMBER 1\n")
    source.write_text('#include "part.h"\nint number() { return NUMBER; }\n')
    first = build.built(source)
    assert build.built(source) == first
    assert len(compiled) == 1
    header.write_text("#define NUMBER 2\n")
    assert build.built(source) != first
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".so", ".so"]
    source.write_text("int number() { return }\n")
    with pytest.raises(RuntimeError, match=r"part\.cpp does not compile"):
        build.built(source)


def test_the_reason_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(build.CannotBuild, match="there is no C\\+\\+ compiler"):
        build.built(PLANTED)
