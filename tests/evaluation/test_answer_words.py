"""Words of an answer are traced to the one earlier turn that said them."""

from rxt_jax.evaluation.answer_words import words_said_before


def test_words_belong_to_the_one_earlier_turn_that_said_them():
    queries = ["My dog is called Brumsel.", "The key is under the piano.", "What is my dog's name?"]
    assert words_said_before(queries, "Your dog is called Brumsel.") == {0: ["called", "brumsel"]}
    assert words_said_before(queries, "Under the piano, BRUMSEL!") == {0: ["brumsel"], 1: ["under", "the", "piano"]}
    assert words_said_before(queries, "Rex.") == {}
    # Said twice, said by the question itself, and said by nobody before the first turn.
    assert words_said_before([*queries[:1], *queries], "It is called Brumsel.") == {}
    assert words_said_before(["Who is Brumsel?"], "Brumsel is a dog.") == {}
