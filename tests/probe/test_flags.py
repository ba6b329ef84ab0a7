import itertools
import re

import pytest

from sbc_probe import renewal
from sbc_probe.findings import Cause
from sbc_probe.flags import PAIRS, explain, meaning
from sbc_probe.words import TITLES, WORDS

ALL = ["".join(pair) for pair in itertools.product("ATID", "PXN")]


def test_every_pair_has_words_of_its_own() -> None:
    assert sorted(PAIRS) == sorted(ALL)
    assert len({meaning(pair) for pair in ALL}) == len(ALL)
    for pair in PAIRS.values():
        assert all((pair.short, pair.means, pair.usually, pair.do))


def test_an_unknown_letter_is_named() -> None:
    assert "'Z'" in meaning("AZ")
    assert "''" in meaning("")


@pytest.mark.parametrize("asked", ["IP", "ip", " Ip\n"])
def test_a_state_is_explained(asked: str) -> None:
    said = explain(asked)
    assert said
    assert said.startswith(f"IP: {meaning('IP')}\n  means ")
    assert "403" in said
    assert "what to do  `sbc-probe check`" in said


def test_a_cause_is_explained() -> None:
    said = explain("proxy_tls")
    assert said
    assert said.startswith(f"proxy_tls (failed): {TITLES[Cause.PROXY_TLS]}\n  the probe saw ")
    assert "look at it first" in " ".join(said.split())
    assert explain("Proxy-TLS") == said
    assert (explain("trunk_missing") or "").startswith("trunk_missing (waiting)")
    assert (explain("config_differs") or "").startswith("config_differs (remark)")
    assert (explain("rate_limited") or "").startswith("rate_limited: why a renewal fails")


@pytest.mark.parametrize("asked", ["", "A", "QQ", "proxy", "AP AP"])
def test_anything_else_is_not(asked: str) -> None:
    assert explain(asked) is None


def test_every_cause_has_words_and_no_other_has() -> None:
    assert set(WORDS) == {str(cause) for cause in (*Cause, *renewal.Cause)}
    assert all(words.saw and words.usually for words in WORDS.values())
    assert len(set(TITLES.values())) == len(TITLES)


@pytest.mark.parametrize("asked", [*ALL, *WORDS])
def test_lines_keep_to_the_width(asked: str) -> None:
    for width in (60, 100):
        assert all(
            len(line) <= width or " " not in line.strip() for line in (explain(asked, width) or "").splitlines()[1:]
        )
    assert not re.search(r"\]\(", explain(asked) or "]( ")
