"""Pseudonyms of ids."""

import pyarrow as pa

from millrace.pseudonyms import pseudonym, pseudonymise

KEY = b"a key of tests"


def test_a_column_and_a_single_id_get_the_same_pseudonym() -> None:
    ids = ["596", "4961", "596"]

    column = pseudonymise(pa.array(ids), KEY)

    assert column.to_pylist() == [pseudonym(one, KEY) for one in ids]


def test_a_pseudonym_is_sixteen_hex_digits_and_depends_on_the_key() -> None:
    first, second = pseudonym("596", KEY), pseudonym("596", b"another key")

    assert first != second
    assert len(first) == 16
    assert set(first) <= set("0123456789abcdef")


def test_an_id_as_number_text_padded_text_or_after_a_float_has_one_pseudonym() -> None:
    assert len({pseudonym(one, KEY) for one in (596, 596.0, "596", " 596 ", "596.0", "596.00")}) == 1
    assert len({pseudonym(one, KEY) for one in ("596", "596.5", "0596", "59.60", "a.0")}) == 5


def test_ids_of_an_earlier_column_are_remembered_and_nulls_are_not() -> None:
    known: dict[str, str] = {}

    first = pseudonymise(["1", None, "2"], KEY, known)
    again = pseudonymise(["2", "3", None], KEY, known)

    assert known == {one: pseudonym(one, KEY) for one in ("1", "2", "3")}
    assert again.to_pylist() == [first[2].as_py(), known["3"], None]


def test_nulls_chunks_and_dictionaries_are_kept_in_place() -> None:
    chunks = pa.chunked_array([["1", None], ["2"]])

    expected = [pseudonym("1", KEY), None, pseudonym("2", KEY)]

    assert pseudonymise(chunks, KEY).to_pylist() == expected
    assert pseudonymise(chunks.dictionary_encode(), KEY).to_pylist() == expected
    assert pseudonymise([], KEY).to_pylist() == []
