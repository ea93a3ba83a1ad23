"""How facts of one family are stated, changed, asked for and answered: plain data.

`{k}` is the key ("cat"), `{v}` the value, `{a}` its article, `{my}` turns with the speaker. Clauses begin in lower case
and carry no full stop, so that they can be joined. `tell` is the model's own sentence: it restates the key before the
value.
"""

from typing import NamedTuple

__all__ = ["FAMILIES", "Family"]


class Family(NamedTuple):
    """The sentences that only this family has; phrasing.py adds the ones that all families share."""

    noun: str
    state: tuple[str, ...]
    change: tuple[str, ...]
    ask: tuple[str, ...]
    tell: tuple[str, ...]


FAMILIES = {
    "name": Family(
        noun="the name of {my} {k}",
        state=(
            "my {k} is called {v}",
            "my {k}'s name is {v}",
            "I have a {k} called {v}",
            "my {k} goes by {v}",
            "I call my {k} {v}",
            "my {k} answers to {v}",
            "I have a {k} and the name is {v}",
            "everybody knows my {k} as {v}",
        ),
        change=(
            "my {k} is called {v} now",
            "my {k}'s new name is {v}",
            "my {k} is really called {v}",
            "I call my {k} {v} from now on",
            "the new name of my {k} is {v}",
        ),
        ask=(
            "what is my {k} called?",
            "what is my {k}'s name?",
            "how is my {k} called?",
            "which name does my {k} have?",
            "what do I call my {k}?",
            "what name does my {k} answer to?",
            "do you know how my {k} is called?",
            "what name do people use for my {k}?",
        ),
        tell=("your {k} is called {v}", "your {k}'s name is {v}", "the name of your {k} is {v}"),
    ),
    "home": Family(
        noun="{my} home city",
        state=(
            "I live in {v}",
            "my home is in {v}",
            "I have a flat in {v}",
            "you can find me in {v}",
            "my house stands in {v}",
            "I am at home in {v}",
            "I spend my life in {v}",
            "I rent a room in {v}",
        ),
        change=(
            "I live in {v} now",
            "I moved to {v}",
            "my new home is in {v}",
            "I am at home in {v} now",
            "I have just moved to {v}",
        ),
        ask=(
            "where do I live?",
            "in which city do I live?",
            "where is my home?",
            "where can one find me?",
            "which city do I live in?",
            "where is my house?",
            "where am I at home?",
            "what city is my home in?",
        ),
        tell=("you live in {v}", "your home is in {v}", "your home city is {v}"),
    ),
    "born": Family(
        noun="{my} place of birth",
        state=(
            "I was born in {v}",
            "I come from {v}",
            "I was a child in {v}",
            "I first saw the light in {v}",
            "I grew up in {v}",
            "my mother had me in {v}",
            "my family is from {v}",
            "my life began in {v}",
        ),
        change=(
            "I was in fact born in {v}",
            "I really come from {v}",
            "it was {v} where I was born",
            "I in truth grew up in {v}",
            "my papers say that I was born in {v}",
        ),
        ask=(
            "where was I born?",
            "where do I come from?",
            "in which city was I born?",
            "where did I grow up?",
            "where was I a child?",
            "which city was I born in?",
            "where did my life begin?",
            "what city do I come from?",
        ),
        tell=("you were born in {v}", "you come from {v}", "your place of birth is {v}"),
    ),
    "trip": Family(
        noun="the destination of {my} trip",
        state=(
            "I will travel to {v}",
            "my trip goes to {v}",
            "I plan a trip to {v}",
            "I am off to {v} next month",
            "I have a ticket to {v}",
            "I want to visit {v}",
            "my holiday will be in {v}",
            "I am packing for {v}",
        ),
        change=(
            "I will travel to {v} instead",
            "my trip goes to {v} now",
            "I changed my trip to {v}",
            "I am off to {v} instead",
            "my new plan is to visit {v}",
        ),
        ask=(
            "where will I travel?",
            "where does my trip go?",
            "to which city do I travel?",
            "where am I off to next month?",
            "which city will I visit?",
            "where is my holiday?",
            "what city is on my ticket?",
            "what is my trip heading for?",
        ),
        tell=("you will travel to {v}", "your trip goes to {v}", "the destination of your trip is {v}"),
    ),
    "kin_city": Family(
        noun="the city of {my} {k}",
        state=(
            "my {k} lives in {v}",
            "my {k}'s home is in {v}",
            "my {k} has a house in {v}",
            "my {k} can be found in {v}",
            "I have a {k} in {v}",
            "my {k} is at home in {v}",
            "my {k} stays in {v}",
            "I visit my {k} in {v}",
        ),
        change=(
            "my {k} lives in {v} now",
            "my {k} moved to {v}",
            "my {k}'s new home is in {v}",
            "my {k} is at home in {v} now",
            "my {k} has just moved to {v}",
        ),
        ask=(
            "where does my {k} live?",
            "in which city does my {k} live?",
            "where is my {k}'s home?",
            "where can my {k} be found?",
            "where is my {k} at home?",
            "where do I visit my {k}?",
            "which city does my {k} live in?",
            "what city is my {k} in?",
        ),
        tell=("your {k} lives in {v}", "your {k}'s home is in {v}", "the city of your {k} is {v}"),
    ),
    "job": Family(
        noun="{my} job",
        state=(
            "I work as {a} {v}",
            "I am {a} {v}",
            "I earn my money as {a} {v}",
            "I am {a} {v} by trade",
            "I have a job as {a} {v}",
            "I am employed as {a} {v}",
            "people pay me as {a} {v}",
            "my trade is that of {a} {v}",
        ),
        change=(
            "I work as {a} {v} now",
            "I have become {a} {v}",
            "my new job is {v}",
            "I am {a} {v} by trade now",
            "I changed my job to {v}",
        ),
        ask=(
            "what do I work as?",
            "what is my work?",
            "how do I earn my money?",
            "what am I by trade?",
            "what am I employed as?",
            "what kind of work do I do?",
            "what do people pay me for?",
            "which trade is mine?",
        ),
        tell=("you work as {a} {v}", "your job is {v}", "your work is that of {a} {v}"),
    ),
    "kin_job": Family(
        noun="the job of {my} {k}",
        state=(
            "my {k} works as {a} {v}",
            "my {k} is {a} {v}",
            "my {k} earns money as {a} {v}",
            "my {k} is {a} {v} by trade",
            "my {k} has a job as {a} {v}",
            "my {k} is employed as {a} {v}",
            "I have a {k} who is {a} {v}",
            "people pay my {k} as {a} {v}",
        ),
        change=(
            "my {k} works as {a} {v} now",
            "my {k} has become {a} {v}",
            "my {k}'s new job is {v}",
            "my {k} is {a} {v} by trade now",
            "my {k} found a new job as {a} {v}",
        ),
        ask=(
            "what does my {k} work as?",
            "what is my {k}'s work?",
            "how does my {k} earn money?",
            "what is my {k} by trade?",
            "what is my {k} employed as?",
            "what kind of work does my {k} do?",
            "what do people pay my {k} for?",
            "which trade has my {k}?",
        ),
        tell=("your {k} works as {a} {v}", "your {k}'s job is {v}", "the job of your {k} is {v}"),
    ),
    "favourite": Family(
        noun="{my} favourite {k}",
        state=(
            "my favourite {k} is {v}",
            "the best {k} for me is {v}",
            "my {k} of choice is {v}",
            "the {k} I like most is {v}",
            "I like no {k} as much as {v}",
            "among {k}s I would pick {v}",
            "the {k} for me is {v}",
            "I prefer {v} to every other {k}",
        ),
        change=(
            "my favourite {k} is {v} now",
            "my new favourite {k} is {v}",
            "the best {k} for me is now {v}",
            "the {k} I like most is now {v}",
            "I now prefer {v} to every other {k}",
        ),
        ask=(
            "what is my favourite {k}?",
            "which {k} is the best for me?",
            "what is my {k} of choice?",
            "which {k} do I like most?",
            "which {k} would I pick?",
            "what {k} do I prefer?",
            "which {k} is my favourite one?",
            "what {k} is the one for me?",
        ),
        tell=(
            "your favourite {k} is {v}",
            "the {k} you like most is {v}",
            "your {k} of choice is {v}",
        ),
    ),
    "label": Family(
        noun="{my} {k}",
        state=(
            "my {k} is {v}",
            "my {k} reads {v}",
            "I have the {k} {v}",
            "they gave me the {k} {v}",
            "for my {k} note {v}",
            "on my {k} it says {v}",
            "as {k} I got {v}",
            "my {k} happens to be {v}",
        ),
        change=(
            "my {k} is {v} now",
            "my new {k} is {v}",
            "my {k} has changed to {v}",
            "they gave me the new {k} {v}",
            "my {k} was changed and is {v}",
        ),
        ask=(
            "what is my {k}?",
            "which {k} do I have?",
            "what does my {k} read?",
            "what {k} did they give me?",
            "which {k} is mine?",
            "what is it, my {k}?",
            "what {k} have I got?",
            "how does my {k} read?",
        ),
        tell=("your {k} is {v}", "your {k} reads {v}", "you have the {k} {v}"),
    ),
}
