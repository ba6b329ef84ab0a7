"""The module config_tree with real shell commands, and its action plugin by Ansible."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("config_tree", ROOT / "plugins/modules/config_tree.py")
assert SPEC is not None
assert SPEC.loader is not None
config_tree = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = config_tree
SPEC.loader.exec_module(config_tree)


class Service:
    """A make-believe program: a restart copies the live text to `running`, and the judge looks for `good` there."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.dest = directory / "etc"
        self.log = directory / "log"
        self.running = directory / "running"
        self.files = {"main.cfg": "good first\n", "data/list": "one\n"}
        self.arguments: dict[str, Any] = {
            "src": "templates",
            "dest": str(self.dest),
            "validate": f"echo validate >>{self.log}; ! grep -r invalid %s",
            "restart": f"echo restart >>{self.log}; cat {self.dest}/live/main.cfg >{self.running}",
            "reload": {"data/*": f"echo reload >>{self.log}"},
            "judge": f"echo judge >>{self.log}; grep -h good {self.running}",
        }

    def install(self, **flags: bool) -> dict[str, Any]:
        """Run the module; the result is what Ansible would get."""
        self.log.unlink(missing_ok=True)
        arguments = self.arguments | {"files": self.files} | {f"_ansible_{name}": on for name, on in flags.items()}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            config_tree.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result

    def steps(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def live(self, name: str) -> str:
        return (self.dest / "live" / name).read_text()

    def trees(self) -> list[Path]:
        return sorted((self.dest / "trees").iterdir())


@pytest.fixture
def service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Service:
    return Service(tmp_path, capsys)


@pytest.fixture
def installed(service: Service) -> Service:
    assert not service.install().get("failed")
    return service


def test_first_installation_validates_restarts_and_judges(service: Service) -> None:
    result = service.install()
    assert (result["changed"], result["action"]) == (True, "restart")
    assert service.steps() == ["validate", "restart", "judge"]
    assert service.live("main.cfg") == "good first\n"
    assert service.live("data/list") == "one\n"
    assert os.readlink(service.dest / "live") == os.readlink(service.dest / "good")


def test_nothing_changes_the_second_time(installed: Service) -> None:
    result = installed.install()
    assert (result["changed"], result["action"], result["files"]) == (False, "none", [])
    assert installed.steps() == []
    assert len(installed.trees()) == 1


def test_data_is_reloaded_and_code_restarts(installed: Service) -> None:
    installed.files["data/list"] = "two\n"
    result = installed.install()
    assert (result["action"], result["files"]) == ("reload", ["data/list"])
    assert installed.steps() == ["validate", "reload", "judge"]
    installed.files["main.cfg"] = "good second\n"
    installed.files["data/list"] = "three\n"
    result = installed.install()
    assert (result["action"], result["files"]) == ("restart", ["data/list", "main.cfg"])
    assert installed.steps() == ["validate", "restart", "judge"]


def test_a_program_that_does_not_run_is_restarted(installed: Service) -> None:
    installed.arguments["alive"] = f"test -e {installed.running}"
    assert installed.install()["changed"] is False
    installed.running.unlink()
    result = installed.install()
    assert (result["changed"], result["action"], result["files"]) == (True, "restart", [])
    assert installed.steps() == ["restart", "judge"]
    assert len(installed.trees()) == 1


def test_a_file_that_left_the_source_leaves_the_tree(installed: Service) -> None:
    del installed.files["data/list"]
    assert installed.install()["files"] == ["data/list"]
    assert not (installed.dest / "live/data").exists()


def test_invalid_changes_nothing(installed: Service) -> None:
    before = os.readlink(installed.dest / "live")
    installed.files["main.cfg"] = "good but invalid\n"
    result = installed.install()
    assert result["failed"]
    assert "Nothing was changed" in result["msg"]
    assert "good but invalid" in result["msg"]
    assert installed.steps() == ["validate"]
    assert os.readlink(installed.dest / "live") == before
    assert len(installed.trees()) == 1


def test_the_last_good_tree_returns_when_the_judge_refuses(installed: Service) -> None:
    installed.files["main.cfg"] = "bad\n"
    result = installed.install()
    assert result["failed"]
    assert "The last good configuration" in result["msg"]
    assert "is back and works" in result["msg"]
    assert "judge (`" in result["msg"]
    assert installed.steps() == ["validate", "restart", "judge", "restart", "judge"]
    assert installed.running.read_text() == installed.live("main.cfg") == "good first\n"
    installed.files["main.cfg"] = "good first\n"
    assert not installed.install()["changed"]


def test_the_last_good_tree_returns_when_the_restart_fails(installed: Service) -> None:
    installed.arguments["restart"] += f"; grep -q good {installed.running}"
    installed.files["main.cfg"] = "does not start\n"
    result = installed.install()
    assert result["failed"]
    assert "restart (`" in result["msg"]
    assert installed.steps() == ["validate", "restart", "restart", "judge"]
    assert installed.running.read_text() == "good first\n"


def test_the_last_good_tree_returns_when_a_reload_fails(installed: Service) -> None:
    installed.arguments["reload"]["data/*"] = "echo refused; false"
    installed.files["data/list"] = "two\n"
    result = installed.install()
    assert result["failed"]
    assert "refused" in result["msg"]
    assert installed.steps() == ["validate", "restart", "judge"]
    assert installed.live("data/list") == "one\n"


def test_it_says_when_the_last_good_tree_does_not_work_either(installed: Service) -> None:
    installed.arguments["judge"] = "echo the disk is full; false"
    installed.files["main.cfg"] = "good second\n"
    result = installed.install()
    assert result["failed"]
    assert "does not work either" in result["msg"]
    assert result["msg"].count("\nthe disk is full") == 2
    assert installed.live("main.cfg") == "good first\n"


def test_a_first_installation_that_fails_is_tried_again(service: Service) -> None:
    service.files["main.cfg"] = "bad\n"
    result = service.install()
    assert result["failed"]
    assert "no earlier good configuration" in result["msg"]
    assert not (service.dest / "good").exists()
    assert service.install()["failed"]
    service.files["main.cfg"] = "good\n"
    result = service.install()
    assert not result.get("failed")
    assert service.steps() == ["validate", "restart", "judge"]
    assert service.running.read_text() == "good\n"


def test_an_interrupted_run_is_finished_by_the_next(installed: Service) -> None:
    installed.files["main.cfg"] = "good second\n"
    assert installed.install()["changed"]
    good, older = reversed(installed.trees())
    (installed.dest / "good").unlink()
    (installed.dest / "good").symlink_to(f"trees/{older.name}")
    result = installed.install()
    assert (result["changed"], result["action"]) == (True, "restart")
    assert installed.steps() == ["validate", "restart", "judge"]
    assert (installed.dest / "good").resolve() == (installed.dest / "live").resolve() != good
    assert not installed.install()["changed"]


def test_edits_by_hand_are_drift(installed: Service) -> None:
    (installed.dest / "live/main.cfg").write_text("good enough\n")
    assert installed.install()["files"] == ["main.cfg"]
    assert installed.live("main.cfg") == "good first\n"


def test_modes_are_kept(service: Service) -> None:
    service.arguments["mode"] = "0640"
    service.install()
    tree = service.trees()[0]
    assert (tree / "main.cfg").stat().st_mode & 0o777 == 0o640
    assert tree.stat().st_mode & 0o777 == (tree / "data").stat().st_mode & 0o777 == 0o750
    service.arguments["mode"] = "0600"
    assert service.install()["files"] == ["data/list", "main.cfg"]
    assert (service.dest / "live/main.cfg").stat().st_mode & 0o777 == 0o600


def test_check_mode_tells_and_touches_nothing(service: Service) -> None:
    result = service.install(check_mode=True, diff=True)
    assert (result["changed"], result["action"]) == (True, "restart")
    assert [(diff["before_header"], diff["after_header"]) for diff in result["diff"]] == [
        ("/dev/null", "templates/data/list"),
        ("/dev/null", "templates/main.cfg"),
    ]
    assert service.steps() == []
    assert not service.dest.exists()
    service.install()
    service.files["data/list"] = "two\n"
    result = service.install(check_mode=True, diff=True)
    assert (result["changed"], result["action"]) == (True, "reload")
    assert [(diff["before"], diff["after"]) for diff in result["diff"]] == [("one\n", "two\n")]
    assert service.steps() == []
    assert service.live("data/list") == "one\n"


def test_old_trees_go_but_never_the_good_one(installed: Service) -> None:
    for number in range(5):
        installed.files["main.cfg"] = f"good number {number}\n"
        installed.install()
    assert len(installed.trees()) == 3
    installed.files["main.cfg"] = "bad\n"
    for number in range(4):
        installed.files["data/list"] = f"{number}\n"
        assert installed.install()["failed"]
    assert len(installed.trees()) == 3
    assert installed.live("main.cfg") == "good number 4\n"


@pytest.mark.parametrize("kind", ["owner", "group"])
def test_an_unknown_owner_or_group_fails_but_in_check_mode_it_would_only_change(installed: Service, kind: str) -> None:
    installed.arguments[kind] = "nobody-like-that"
    assert f"{kind} = nobody-like-that: no such " in installed.install()["msg"]
    result = installed.install(check_mode=True, diff=True)
    assert (result["changed"], result.get("failed")) == (True, None)
    assert result["files"] == ["data/list", "main.cfg"]
    assert installed.steps() == []


def test_check_mode_asks_whether_the_program_runs(installed: Service) -> None:
    installed.arguments["alive"] = f"echo alive >>{installed.log}; false"
    result = installed.install(check_mode=True)
    assert (result["changed"], result["action"]) == (True, "restart")
    assert set(installed.steps()) == {"alive"}


def play(directory: Path, variables: dict[str, str], *flags: str) -> str:
    """Install directory/templates to directory/etc by ansible-playbook; tells what it printed."""
    task = {"config_tree": {"src": "templates", "dest": str(directory / "etc"), "restart": "true"}}
    hosts = {"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [task]}
    (directory / "playbook.yml").write_text(json.dumps([hosts]))
    (directory / "ansible.cfg").write_text(
        f"[defaults]\nlibrary={ROOT}/plugins/modules\naction_plugins={ROOT}/plugins/action\nnocolor=true\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", *flags, "playbook.yml"],
        env=os.environ | {"ANSIBLE_CONFIG": "ansible.cfg", "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
        cwd=directory,
        capture_output=True,
        text=True,
    )
    return ended.stdout + ended.stderr


def test_ansible_renders_every_file_and_shows_one_diff_each(tmp_path: Path) -> None:
    (tmp_path / "templates/lists").mkdir(parents=True)
    (tmp_path / "templates/main.cfg").write_text(
        "# {{ ansible_managed }}\n{% set text = 'a' ~ word %}\n{% if word %}\nsay \"{{ text }}\\r\\n\"\n{% endif %}\n\n"
    )
    (tmp_path / "templates/lists/number").write_text("{{ 1 + 1 }}\n")
    (tmp_path / "templates/.main.cfg.swp").write_text("{{ nobody_knows }}")
    said = play(tmp_path, {"word": "b"}, "--check", "--diff")
    assert said.count("+++ after: ") == 2
    assert '+say "ab\\r\\n"\n' in said
    assert not (tmp_path / "etc").exists()
    assert "changed=1" in play(tmp_path, {"word": "b"})
    assert (tmp_path / "etc/live/main.cfg").read_text() == '# Ansible managed\nsay "ab\\r\\n"\n\n'
    assert (tmp_path / "etc/live/lists/number").read_text() == "2"
    assert sorted(path.name for path in (tmp_path / "etc/live").iterdir()) == ["lists", "main.cfg"]
    assert "changed=0" in play(tmp_path, {"word": "b", "ansible_managed": "Ansible managed"})


def test_ansible_names_a_template_that_cannot_be_rendered(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/main.cfg").write_text("{{ nobody_knows }}\n")
    said = play(tmp_path, {})
    assert "templates/main.cfg" in said
    assert "'nobody_knows' is undefined" in said
    assert not (tmp_path / "etc").exists()
