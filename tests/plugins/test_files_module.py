"""Files and what puts them in force, also after a run that did not end."""

from __future__ import annotations

import base64
import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.plugins.machine import Programs, load, run
from tests.plugins.support import Failed

ME = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}
Files = Callable[..., dict[str, Any]]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loaded = load("modules", "files")
    monkeypatch.setattr(loaded, "DUE", tmp_path / "due")
    return loaded


@pytest.fixture
def files(plugin: ModuleType) -> Files:
    """Run the module on the files; each belongs to who runs the tests unless it says otherwise."""

    def call(*wanted: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
        return run(plugin, check, files=[ME | file for file in wanted], **more)

    return call


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    return directory


def noting(path: Path, word: str) -> str:
    """A command that leaves a trace."""
    return f"echo {word} >>{path}"


def everything_below(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in directory.rglob("*")
    }


def test_content_mode_and_directories(files: Files, etc: Path) -> None:
    text, binary = etc / "a/b/text", etc / "binary"
    wanted: list[dict[str, Any]] = [
        {"path": str(text), "content": "Grüße\n"},
        {"path": str(binary), "base64": base64.b64encode(b"\x00\xff").decode(), "mode": "0755"},
    ]
    first = files(*wanted)
    assert first["changed"]
    assert first["changed_files"] == [str(text), str(binary)]
    assert (text.read_text(), binary.read_bytes()) == ("Grüße\n", b"\x00\xff")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (text, binary, text.parent)]
    assert modes == [0o644, 0o755, 0o755]
    assert [diff["after"] for diff in first["diff"]] == ["Grüße\n", "(2 bytes)\n"]

    again = files(*wanted)
    assert (again["changed"], again["changed_files"], again["diff"]) == (False, [], [])

    text.chmod(0o600)
    assert files(*wanted)["changed_files"] == [str(text)]
    assert stat.S_IMODE(text.stat().st_mode) == 0o644
    assert sorted(os.listdir(etc)) == ["a", "binary"]


def test_an_empty_file_is_not_an_absent_one(files: Files, etc: Path) -> None:
    path = etc / "proxy"
    assert not files({"path": str(path)})["changed"]
    assert files({"path": str(path), "content": ""})["changed"]
    assert path.read_bytes() == b""
    removed = files({"path": str(path)})
    assert removed["changed_files"] == [str(path)]
    assert not path.exists()


def test_a_reader_never_sees_half_a_file(files: Files, etc: Path) -> None:
    path = etc / "conf"
    path.write_text("old\n")
    with path.open() as reader:
        files({"path": str(path), "content": "new\n"})
        assert reader.read() == "old\n"
    assert path.read_text() == "new\n"


def test_exclusive_removes_what_was_not_asked_for(files: Files, etc: Path) -> None:
    for name in ("sbc-kept.crt", "sbc-old.crt", "other.crt"):
        (etc / name).write_text(name)
    trace = etc / "trace"
    result = files(
        {"path": str(etc / "sbc-kept.crt"), "content": "sbc-kept.crt"},
        exclusive=[f"{etc}/sbc-*.crt"],
        apply=[{"command": noting(trace, "update"), "paths": [f"{etc}/*.crt"]}],
    )
    assert result["changed_files"] == [str(etc / "sbc-old.crt")]
    assert sorted(path.name for path in etc.glob("*.crt")) == ["other.crt", "sbc-kept.crt"]
    assert trace.read_text() == "update\n"


def test_a_directory_that_a_wildcard_stands_for_goes_with_its_last_file(files: Files, etc: Path) -> None:
    for directory in ("left", "shared", "kept"):
        (etc / directory).mkdir()
        (etc / directory / "ours").write_text(directory)
    (etc / "shared" / "theirs").touch()
    wanted = {"path": str(etc / "kept" / "ours"), "content": "kept"}
    assert files(wanted, check=True, exclusive=[f"{etc}/*/ours"])["changed"]
    assert (etc / "left" / "ours").exists()
    files(wanted, exclusive=[f"{etc}/*/ours"])
    assert sorted(path.name for path in etc.iterdir()) == ["kept", "shared"]
    assert [path.name for path in (etc / "shared").iterdir()] == ["theirs"]
    files(exclusive=[f"{etc}/kept/*"])
    assert list((etc / "kept").iterdir()) == [], "the wildcard stands for the file only"


def test_without_an_owner_a_file_belongs_to_who_runs_the_task(files: Files, etc: Path) -> None:
    path = etc / "a"
    path.write_text("new")
    assert not files({"path": str(path), "content": "new", "owner": None, "group": None})["changed"]
    assert path.owner() == ME["owner"]


def test_what_is_applied_follows_from_what_changed(files: Files, etc: Path, tmp_path: Path) -> None:
    trace = etc / "trace"
    apply = [
        {"command": noting(trace, "first"), "paths": [f"{etc}/a", f"{etc}/b"]},
        {"command": noting(trace, "second"), "paths": [f"{etc}/b"]},
        {"command": noting(trace, "third"), "paths": [f"{etc}/a"]},
    ]
    wanted = [{"path": str(etc / name), "content": name} for name in "ab"]
    (etc / "b").write_text("b")
    result = files(*wanted, apply=apply)
    assert result["applied"] == [apply[0]["command"], apply[2]["command"]]
    assert trace.read_text().split() == ["first", "third"]
    assert list((tmp_path / "due").iterdir()) == []

    again = files(*wanted, apply=apply)
    assert (again["changed"], again["applied"]) == (False, [])
    assert trace.read_text().split() == ["first", "third"]


def test_a_command_that_failed_is_due_at_the_next_run(files: Files, etc: Path) -> None:
    trace, ready = etc / "trace", etc / "ready"
    wanted = {"path": str(etc / "a"), "content": "a"}
    failing = f"test -e {ready} || {{ echo not ready >&2; exit 3; }}"
    apply = [
        {"command": noting(trace, "first"), "paths": ["*"]},
        {"command": failing, "paths": ["*"]},
        {"command": noting(trace, "third"), "paths": ["*"]},
    ]
    for _ in range(2):
        with pytest.raises(Failed, match="exited 3: not ready"):
            files(wanted, apply=apply)
    assert trace.read_text().split() == ["first"]
    ready.touch()
    result = files(wanted, apply=apply)
    assert (result["changed"], result["changed_files"]) == (True, [])
    assert result["applied"] == [failing, apply[2]["command"]]
    assert trace.read_text().split() == ["first", "third"]
    assert not files(wanted, apply=apply)["changed"]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_an_interrupted_run_is_finished_by_the_next_one(
    files: Files, plugin: ModuleType, etc: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Whether it ends before the first file, between two, or when all are written and nothing is applied yet."""
    trace = etc / "trace"
    apply = [{"command": noting(trace, name), "paths": [str(etc / name)]} for name in "ab"]
    wanted = [{"path": str(etc / name), "content": name} for name in "ab"]
    put, left = plugin.put, [written]

    def interrupted(*arguments: Any) -> None:
        if not left[0]:
            raise SystemExit
        left[0] -= 1
        put(*arguments)

    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(plugin, "put", interrupted)
        patch.setattr(plugin.AnsibleModule, "run_command", killed)
        with pytest.raises(ValueError, match="Expecting value"):  # no result was printed
            files(*wanted, apply=apply)
    assert [path.name for path in sorted(etc.iterdir())] == ["a", "b"][:written]
    assert files(*wanted, apply=apply)["changed"]
    assert trace.read_text().split() == ["a", "b"]
    assert not files(*wanted, apply=apply)["changed"]


def test_only_what_its_validator_accepts_is_installed(files: Files, etc: Path) -> None:
    path, trace = etc / "with a space" / "nftables.conf", etc / "trace"
    apply = [{"command": noting(trace, "applied"), "paths": ["*"]}]
    wanted = {
        "path": str(path),
        "content": "table good\n",
        "validate": "grep -q good %s || { echo line 1 >&2; exit 4; }",
    }
    files(wanted, apply=apply)
    assert (path.read_text(), trace.read_text()) == ("table good\n", "applied\n")

    with pytest.raises(Failed, match=r"not installed, since .* exited 4: line 1") as failure:
        files(wanted | {"content": "table bad\n"}, apply=apply)
    assert failure.value.args[0]["msg"].startswith(f"{path}: not installed")
    assert (path.read_text(), trace.read_text()) == ("table good\n", "applied\n")
    assert [entry.name for entry in path.parent.iterdir()] == ["nftables.conf"]


@pytest.mark.parametrize("mode", ["0600", "0640", "0400"])
def test_secrets_are_not_shown(files: Files, etc: Path, mode: str) -> None:
    path = etc / "key"
    path.write_text("0ld-s3cret")
    result = files({"path": str(path), "content": "n3w-s3cret", "mode": mode})
    assert result["diff"] == [
        {
            "before_header": str(path),
            "after_header": str(path),
            "before": "(not shown)\n",
            "after": "(not shown)\n",
        }
    ]
    assert "s3cret" not in str(result)
    assert path.read_text() == "n3w-s3cret"


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"path": "etc/motd", "content": ""}, "etc/motd: not an absolute path"),
        ({"path": "/nonexistent/a", "content": "", "base64": ""}, "mutually exclusive"),
        ({"path": "/nonexistent/a", "content": "", "mode": "rwx"}, "/nonexistent/a: "),
        ({"path": "/nonexistent/a", "base64": "a"}, "/nonexistent/a: "),
    ],
)
def test_parameters_that_make_no_sense(files: Files, wanted: dict[str, Any], problem: str) -> None:
    with pytest.raises(Failed) as failure:
        files(wanted)
    assert problem in failure.value.args[0]["msg"]


def test_an_unknown_owner_leaves_the_file_as_it_was(files: Files, etc: Path) -> None:
    path = etc / "a"
    path.write_text("old")
    with pytest.raises(Failed, match="no user nobody-has-this-name"):
        files({"path": str(path), "content": "new", "owner": "nobody-has-this-name"})
    assert path.read_text() == "old"
    assert [entry.name for entry in etc.iterdir()] == ["a"]


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A systemctl that knows one unit that runs, one that is only enabled, and one that does not start."""
    programs = Programs(tmp_path, monkeypatch)
    running = tmp_path / "running"
    programs.add(
        "systemctl",
        f"""
        case "$*" in
        "show "*" runs") printf 'active\\nenabled\\n' ;;
        "show "*" idle") if [ -e {running} ]; then echo active; else echo inactive; fi; echo enabled ;;
        "show "*" unlasting") printf 'active\\ndisabled\\n' ;;
        "show "*" broken") printf 'failed\\nenabled\\n' ;;
        "start "*broken*) echo "Job for broken.service failed." >&2; exit 1 ;;
        "start "*) touch {running} ;;
        esac
        """,
    )
    return programs


def shown(unit: str) -> str:
    return f"systemctl show --property=ActiveState,UnitFileState --value {unit}"


def test_units_are_started_and_enabled_together(files: Files, units: Programs) -> None:
    result = files(units=["runs", "idle", "unlasting"])
    assert (result["changed"], result["started_units"]) == (True, ["idle", "unlasting"])
    enabled, started = units.calls()[-2:]
    assert enabled.startswith("systemctl enable ")
    assert enabled.endswith(" idle unlasting")
    assert started == "systemctl start idle unlasting"
    again = files(units=["runs", "idle"])
    assert (again["changed"], again["started_units"]) == (False, [])
    assert units.calls() == [shown("runs"), shown("idle")]


def test_units_are_looked_at_when_the_rest_is_done(files: Files, units: Programs, etc: Path) -> None:
    apply = [{"command": "systemctl daemon-reload", "paths": ["*"]}]
    files({"path": str(etc / "runs.service"), "content": ""}, apply=apply, units=["runs"])
    assert units.calls() == ["systemctl daemon-reload", shown("runs")]


def test_a_unit_that_does_not_start(files: Files, units: Programs) -> None:
    with pytest.raises(Failed, match=r"systemctl start broken: Job for broken.service failed"):
        files(units=["runs", "broken"])


def test_check_mode_touches_nothing(files: Files, units: Programs, etc: Path, tmp_path: Path) -> None:
    for name in ("changes", "goes", "sbc-stray"):
        (etc / name).write_text("old")
    trace = etc / "trace"
    before = everything_below(etc)
    result = files(
        {"path": str(etc / "changes"), "content": "new"},
        {"path": str(etc / "goes")},
        {"path": str(etc / "below/comes"), "content": "new", "owner": "nobody-has-this-name"},
        check=True,
        exclusive=[f"{etc}/sbc-*"],
        apply=[{"command": noting(trace, "applied"), "paths": ["*"]}],
        units=["idle"],
    )
    assert everything_below(etc) == before
    assert not (tmp_path / "due").exists()
    assert units.calls() == [shown("idle")]
    assert result["changed_files"] == [str(etc / name) for name in ("changes", "goes", "below/comes", "sbc-stray")]
    assert (result["applied"], result["started_units"]) == ([noting(trace, "applied")], ["idle"])
    assert [(diff["before"], diff["after"]) for diff in result["diff"]] == [
        ("old", "new"),
        ("old", ""),
        ("", "new"),
        ("(not shown)\n", ""),
    ]
