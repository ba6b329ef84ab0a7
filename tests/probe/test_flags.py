import itertools

from sbc_probe.flags import PAIR, meaning


def test_every_pair_has_words_of_its_own() -> None:
    pairs = ["".join(pair) for pair in itertools.product("ATID", "PXN")]
    assert sorted(PAIR) == sorted(pairs)
    assert len({meaning(pair) for pair in pairs}) == len(pairs)


def test_an_unknown_letter_is_named() -> None:
    assert "'Z'" in meaning("AZ")
    assert "''" in meaning("")
