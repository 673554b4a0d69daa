"""The study of speculation counts what a decoder that verifies drafts would do."""

from benchmarks.speculation import CHUNK_TOKENS, Policy, count, draft


def test_a_draft_is_what_followed_the_newest_match():
    assert draft([1, 2, 3, 9, 1, 2, 4, 8, 1, 2], Policy(2, 2)) == [4, 8]
    assert draft([1, 2, 3, 1, 5], Policy(1, 3)) == []
    assert draft([7], Policy(1, 3)) == []
    assert draft([7, 7], Policy(1, 3)) == [7]


def test_right_drafts_save_forwards():
    counts = count([([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])], Policy(1, 2))
    # 1 without a match; then 2 and 3 as drafts, which give 4 as well; 5 is the last.
    assert counts.forwards == {1: 2, 3: 1}
    assert (counts.tokens, counts.accepted, counts.drafted) == (5, 2, 2)


def test_wrong_drafts_cost_rows_and_give_one_token():
    counts = count([([1, 2], [1, 9, 8])], Policy(1, 1))
    assert (counts.tokens, counts.accepted, counts.drafted) == (3, 0, 1)
    assert counts.forwards == {1: 2, 2: 1}


def test_a_draft_ends_with_its_chunk_of_text():
    ids = list(range(CHUNK_TOKENS + 2))
    counts = count([(ids, ids)], Policy(1, 12))
    assert counts.tokens == len(ids)
    assert max(counts.forwards) <= CHUNK_TOKENS
