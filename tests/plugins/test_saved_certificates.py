"""Copies of certificates: what is carried away, what is refused, the password, and the record of what was asked for."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import certbot_lineage as lineage
from ansible.module_utils.certbot_lineage import Entry
from ansible.module_utils.saved_certificates import Asked, Saved, SavedError, age, fold
from ansible.parsing.dataloader import DataLoader

from tests.plugins.machine import load, run
from tests.plugins.support import Failed
from tests.plugins.tls import Authority

NAME = "sbc.example.com"
DIRECTORY = "https://acme.example/directory"
DAY = 86400.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def held(root: Path, authority: Authority, names: tuple[str, ...] = (NAME,), number: int = 1) -> Path:
    """A directory as certbot keeps it, with one more certificate."""
    archive, live = root / "archive" / NAME, root / "live" / NAME
    accounts = root / "accounts" / "acme.example:14000" / "dir" / "0af3"
    for directory in (archive, live, root / "renewal", accounts):
        directory.mkdir(parents=True, exist_ok=True)
    key, leaf = authority.issue(names)
    texts = {"cert": leaf, "chain": authority.pem, "fullchain": leaf + authority.pem, "privkey": key}
    for item, text in texts.items():
        (archive / f"{item}{number}.pem").write_text(text)
        (live / f"{item}.pem").unlink(missing_ok=True)
        (live / f"{item}.pem").symlink_to(f"../../archive/{NAME}/{item}{number}.pem")
    (archive / f"privkey{number}.pem").chmod(0o600)
    (root / "renewal" / f"{NAME}.conf").write_text(f"version = 4.0.0\n[renewalparams]\nserver = {DIRECTORY}\n")
    (accounts / "private_key.json").write_text('{"kty": "RSA"}')
    (accounts / "private_key.json").chmod(0o400)
    (accounts / "meta.json").write_text("{}")
    return root


def shown(root: Path) -> dict[str, tuple[str, int]]:
    """Every file and link below a directory, with its content and its mode."""
    return {
        str(path.relative_to(root)): (os.readlink(path), 0)
        if path.is_symlink()
        else (path.read_text(), stat.S_IMODE(path.stat().st_mode))
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_there_and_back(tmp_path: Path, authority: Authority) -> None:
    held(tmp_path / "old", authority)
    found = lineage.collect(str(tmp_path / "old"), NAME)
    lineage.restore(str(tmp_path / "new"), lineage.unpack(lineage.pack(found), NAME))
    assert shown(tmp_path / "new") == shown(tmp_path / "old")
    assert lineage.digest(lineage.collect(str(tmp_path / "new"), NAME)) == lineage.digest(found)
    modes = {
        directory: stat.S_IMODE((tmp_path / "new" / directory).stat().st_mode)
        for directory in ("archive", "live", "renewal", "accounts", f"archive/{NAME}", f"live/{NAME}")
    }
    assert modes == {
        "archive": 0o700, "live": 0o700, "renewal": 0o755, "accounts": 0o700,
        f"archive/{NAME}": 0o755, f"live/{NAME}": 0o755,
    }  # fmt: skip


def test_only_the_certificate_in_force_is_carried_away(tmp_path: Path, authority: Authority) -> None:
    held(tmp_path, authority)
    first = lineage.collect(str(tmp_path), NAME)
    held(tmp_path, authority, number=2)
    second = lineage.collect(str(tmp_path), NAME)
    assert sum(path.startswith("archive/") for path in second) == 4
    assert all("2.pem" in path for path in second if path.startswith("archive/"))
    assert lineage.digest(first) != lineage.digest(second)


def test_times_do_not_count(tmp_path: Path, authority: Authority) -> None:
    held(tmp_path, authority)
    before = lineage.digest(lineage.collect(str(tmp_path), NAME))
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert lineage.digest(lineage.collect(str(tmp_path), NAME)) == before


@pytest.mark.parametrize("lost", [f"renewal/{NAME}.conf", f"live/{NAME}/fullchain.pem"])
def test_half_a_certificate_is_none(tmp_path: Path, authority: Authority, lost: str) -> None:
    (held(tmp_path, authority) / lost).unlink()
    assert lineage.collect(str(tmp_path), NAME) == {}
    assert lineage.collect(str(tmp_path / "nowhere"), NAME) == {}
    assert lineage.digest({}) == ""


def test_links_out_of_certbots_directory_are_not_followed(tmp_path: Path, authority: Authority) -> None:
    root = held(tmp_path / "letsencrypt", authority)
    (tmp_path / "shadow").write_text("root:secret")
    link = root / "live" / NAME / "privkey.pem"
    link.unlink()
    link.symlink_to(tmp_path / "shadow")
    with pytest.raises(ValueError, match=r"privkey\.pem leads out of"):
        lineage.collect(str(root), NAME)
    account = root / "accounts" / "acme.example:14000" / "dir" / "0af3" / "regr.json"
    account.symlink_to(tmp_path / "shadow")
    link.unlink()
    link.symlink_to(f"../../archive/{NAME}/privkey1.pem")
    assert not any("regr" in path for path in lineage.collect(str(root), NAME))


def tar(*members: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return packed.getvalue()


def member(name: str, link: str = "", kind: bytes = tarfile.REGTYPE, size: int = 1) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.SYMTYPE if link else kind
    info.linkname, info.size = link, size if kind == tarfile.REGTYPE and not link else 0
    return info


@pytest.mark.parametrize(
    "packed",
    [
        tar(member("/etc/shadow")),
        tar(member("../shadow")),
        tar(member(f"archive/{NAME}/../../../shadow")),
        tar(member("accounts/../../shadow")),
        tar(member("accounts/.ssh/authorized_keys")),
        tar(member("renewal-hooks/deploy/evil")),
        tar(member("renewal/other.example.com.conf")),
        tar(member(f"archive/{NAME}/privkey1.pem\n")),
        tar(member(f"live/{NAME}/privkey.pem")),
        tar(member(f"live/{NAME}/privkey.pem", link="/etc/shadow")),
        tar(member(f"live/{NAME}/privkey.pem", link=f"../../archive/{NAME}/../../../shadow")),
        tar(member(f"live/{NAME}/privkey.pem", link="../../archive/other.example.com/privkey1.pem")),
        tar(member(f"archive/{NAME}", link="/etc"), member(f"archive/{NAME}/cert1.pem")),
        tar(member(f"archive/{NAME}/cert1.pem"), member(f"archive/{NAME}/cert1.pem")),
        tar(member(f"archive/{NAME}/cert1.pem", kind=tarfile.LNKTYPE)),
        tar(member(f"archive/{NAME}/cert1.pem", kind=tarfile.CHRTYPE)),
        tar(member("accounts/a", size=2 << 20)),
        tar(*(member(f"accounts/{number}", size=0) for number in range(501))),
        tar(member("renewal/x.conf"))[:-20],
        b"not an archive",
    ],
)
def test_a_hostile_archive_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        lineage.unpack(packed, NAME)


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "", "a..b", "-x"])
def test_a_hostile_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no name of a certificate"):
        lineage.collect(str(tmp_path), name)


def test_a_key_is_never_restored_for_all_to_read(tmp_path: Path) -> None:
    key = f"archive/{NAME}/privkey1.pem"
    lineage.restore(str(tmp_path), {key: Entry(b"key", 0o4777), "accounts/a/private_key.json": Entry(b"key", 0o644)})
    assert {path: mode for path, (_, mode) in shown(tmp_path).items()} == {
        key: 0o700,
        "accounts/a/private_key.json": 0o600,
    }


def test_the_droplets_end(tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = load("modules", "certbot_copy")
    monkeypatch.setattr(plugin, "LETSENCRYPT", str(tmp_path / "le"))
    assert run(plugin, name=NAME) | {"invocation": None} == {
        "changed": False, "digest": "", "issued": [], "invocation": None,
    }  # fmt: skip
    assert run(plugin, name=NAME, content=True)["content"] is None
    held(tmp_path / "le", authority)
    looked, copied = run(plugin, name=NAME), run(plugin, name=NAME, content=True)
    assert "content" not in looked
    assert (looked["digest"], looked["issued"]) == (copied["digest"], copied["issued"])
    assert looked["issued"][0]["names"] == [NAME]

    monkeypatch.setattr(plugin, "LETSENCRYPT", str(tmp_path / "new"))
    assert run(plugin, check=True, name=NAME, restore=copied["content"])["changed"]
    assert not (tmp_path / "new").exists()
    back = run(plugin, name=NAME, restore=copied["content"])
    assert copied["content"] not in json.dumps(back)
    assert shown(tmp_path / "new") == shown(tmp_path / "le")
    with pytest.raises(Failed, match="is no file of the certificate other"):
        run(plugin, name="other.example.com", restore=copied["content"])


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(str(tmp_path / "state"), "contoso", str(tmp_path / "password"), DataLoader())


@pytest.fixture
def entries(tmp_path: Path, authority: Authority) -> lineage.Entries:
    return lineage.collect(str(held(tmp_path / "letsencrypt", authority)), NAME)


def modes(*files: Path) -> set[int]:
    return {stat.S_IMODE(file.stat().st_mode) for file in files}


def test_the_copy_is_encrypted_and_private(saved: Saved, entries: lineage.Entries) -> None:
    assert saved.ready(), "the password was not made"
    saved.save(NAME, entries, [], time.time())
    assert not saved.ready()
    assert saved.vault.read_bytes().startswith(b"$ANSIBLE_VAULT;1.1;AES256\n")
    assert modes(saved.vault, saved.record, saved.password_file) == {0o600}
    assert modes(saved.state, saved.vault.parent) == {0o700}
    assert saved.load(NAME) == entries
    assert saved.matches(lineage.digest(entries))
    known = saved.known()
    assert (known["name"], known["names"], known["directory"]) == (NAME, [NAME], DIRECTORY)
    assert "PRIVATE" not in saved.record.read_text()
    assert sorted(path.name for path in saved.vault.parent.iterdir()) == ["certificate.json", "certificate.vault"]


def test_a_copy_without_its_password(saved: Saved, entries: lineage.Entries) -> None:
    saved.ready()
    saved.save(NAME, entries, [], time.time())
    right = saved.password_file.read_bytes()
    for other in (b"another\n", None):
        if other:
            saved.password_file.write_bytes(other)
        else:
            saved.password_file.unlink()
        for attempt in (saved.ready, lambda: saved.load(NAME)):
            with pytest.raises(SavedError) as error:
                attempt()
            assert str(saved.vault) in str(error.value)
            assert str(saved.password_file) in str(error.value)
            assert "certificate_vault_password_file" in str(error.value)
        assert not other or saved.password_file.read_bytes() == other
    assert not saved.password_file.exists(), "a second password was made"
    # Another customer of the same inventory must not get a password of its own either.
    sibling = Saved(str(saved.state), "fabrikam", str(saved.password_file), DataLoader())
    with pytest.raises(SavedError, match=str(saved.vault)):
        sibling.ready()
    saved.password_file.write_bytes(right)
    assert saved.load(NAME) == entries


def test_a_program_may_print_the_password(saved: Saved, entries: lineage.Entries) -> None:
    saved.password_file.write_text("#!/bin/sh\necho from a keyring\n")
    saved.password_file.chmod(0o700)
    saved.ready()
    saved.save(NAME, entries, [], time.time())
    saved.password_file.chmod(0o600)
    saved.password_file.write_text("from a keyring\n")
    assert saved.load(NAME) == entries


def broken_copy(saved: Saved) -> None:
    saved.vault.write_bytes(saved.vault.read_bytes()[:-100])


def broken_record(saved: Saved) -> None:
    saved.record.write_text('{"issued": [{"at": "yesterday"}]}')


@pytest.mark.parametrize("harm", [broken_copy, broken_record])
def test_a_file_that_is_broken_is_named(saved: Saved, entries: lineage.Entries, harm: Callable[[Saved], None]) -> None:
    saved.ready()
    saved.save(NAME, entries, [], time.time())
    harm(saved)
    with pytest.raises(SavedError, match=str(saved.vault.with_suffix("" if harm is broken_record else ".vault"))):
        saved.load(NAME)


def test_what_is_asked_for_is_noted_and_stays(saved: Saved, entries: lineage.Entries) -> None:
    now = float(int(time.time()))
    saved.ask(now - 31 * DAY, [NAME], DIRECTORY)
    saved.ask(now - DAY, [NAME], "https://staging.example")
    saved.ask(now, [NAME, f"*.{NAME}"], DIRECTORY)
    last = Asked(now, (f"*.{NAME}", NAME), DIRECTORY)
    assert saved.asked() == [Asked(now - DAY, (NAME,), "https://staging.example"), last]
    saved.ready()
    saved.save(NAME, entries, [], now)
    assert saved.asked()[-1] == last
    saved.confirm([{"names": [NAME], "not_before": now - 3 * DAY}], now)
    assert saved.asked()[0] == Asked(now - 3 * DAY, (NAME,), DIRECTORY)


def seen(at: float, *names: str) -> dict[str, Any]:
    return {"names": list(names or (NAME,)), "not_before": at}


def test_what_the_droplets_timer_got_is_counted_once() -> None:
    asked = [Asked(10 * DAY, (NAME,), DIRECTORY)]
    backdated = seen(10 * DAY - 3590)
    assert fold(asked, [backdated], DIRECTORY) == asked
    renewed = fold(asked, [backdated, seen(12 * DAY)], DIRECTORY)
    assert renewed == [*asked, Asked(12 * DAY, (NAME,), DIRECTORY)]
    assert fold(renewed, [backdated, seen(12 * DAY)], DIRECTORY) == renewed
    # Two in quick succession are two, and other names are others.
    assert len(fold(asked, [backdated, seen(10 * DAY - 3500)], DIRECTORY)) == 2
    assert len(fold(asked, [seen(10 * DAY - 3590, "other.example.com")], DIRECTORY)) == 2


@pytest.mark.parametrize(
    ("passed", "said"),
    [(5, "less than a minute"), (60, "1 minute"), (3 * 3600 + 5, "3 hours"), (86400, "1 day"), (9 * DAY, "9 days")],
)
def test_ages(passed: float, said: str) -> None:
    assert age(1000.0, 1000.0 + passed) == said
