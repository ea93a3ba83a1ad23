"""What is said around the facts: shared frames, acknowledgements, distractors and instructions. Plain data.

In a user list every fourth entry is held out of training (inventories.HELD_OUT_EVERY); answers are the model's own
words and are the same in every split.
"""

__all__ = ["ABSENCE", "ACKNOWLEDGE", "ASK_FRAMES", "CHANGE_MARKERS", "CHAT", "COMPARE", "COPY", "COPY_WORDS",
           "COUNT", "COUNT_WORDS", "DEFINE", "DEFINITIONS", "ECHO_FRAMES", "FILLERS", "FIRST", "HISTORY", "HOP",
           "INSTRUCTIONS", "SIMILAR", "STATE_FRAMES", "SUM", "SUMMARY", "TELL_FRAMES", "TOOL_DONE",
           "TOOL_FRAMES"]  # fmt: skip

STATE_FRAMES = (
    "please remember that {clause}",
    "you should know that {clause}",
    "keep in mind that {clause}",
    "let it be known that {clause}",
    "for the record, {clause}",
    "let me tell you that {clause}",
    "just so you know, {clause}",
    "I would like to mention that {clause}",
)
ASK_FRAMES = (
    "tell me {noun}.",
    "do you remember {noun}?",
    "can you tell me {noun}?",
    "could you repeat {noun}?",
    "do you know {noun}?",
    "please remind me of {noun}.",
    "I forgot {noun}, can you help?",
    "what did I say about {noun}?",
)
CHANGE_MARKERS = (
    "",
    "actually, ",
    "a correction: ",
    "listen, ",
    "sorry, ",
    "there is news: ",
    "I must correct myself: ",
    "oh, by now things differ: ",
)
TELL_FRAMES = (
    "{tell}",
    "you told me that {tell}",
    "I remember that {tell}",
    "as you said, {tell}",
    "as far as I know, {tell}",
)
ECHO_FRAMES = (
    "noted, {tell}",
    "okay, {tell}",
    "I see, {tell}",
    "I will remember that {tell}",
    "good to know that {tell}",
)
ACKNOWLEDGE = (
    "noted", "okay", "I see", "I will remember that", "good to know", "thank you for telling me", "understood",
    "I keep that in mind", "thanks, I have it", "got it", "all right", "that is clear",
)  # fmt: skip
ABSENCE = (
    "you have not told me {noun}",
    "I do not know {noun} yet",
    "you never told me {noun}",
    "I have not heard {noun} from you",
    "{noun} is not known to me",
    "about {noun} you have said nothing so far",
    "I cannot know {noun}, you did not say it",
    "as to {noun}, I was not told",
    "nobody has told me {noun}",
    "sorry, {noun} is not something I was told",
    "I would have to guess {noun}",
    "so far {noun} has not come up",
)
SUMMARY = (
    "what do you know about me?",
    "please summarise what I told you.",
    "what have I told you so far?",
    "give me an overview of my data.",
    "repeat all that you know about me.",
    "list the facts about me.",
    "sum up our talk.",
    "which facts did you keep?",
    "what did you learn about me?",
    "tell me all you know about me.",
    "let us see what you remember.",
    "what are all the things I told you?",
    "please go through what I said.",
    "what is in your notes about me?",
    "recite everything about me.",
    "in short, what did I tell you?",
)
COMPARE = (
    ("which is larger, {first} or {second}?", 1),
    ("what is more, {first} or {second}?", 1),
    ("which is higher, {first} or {second}?", 1),
    ("is {first} above {second} or below?", 1),
    ("which is smaller, {first} or {second}?", -1),
    ("which is lower, {first} or {second}?", -1),
    ("which of the two is larger, {first} or {second}?", 1),
    ("does {first} or {second} come first when one counts?", -1),
    ("tell me the larger one: {first} or {second}.", 1),
    ("tell me the smaller one: {first} or {second}.", -1),
    ("compare {first} with {second}: which is higher?", 1),
    ("compare {first} with {second}: which is beneath?", -1),
    ("what is less, {first} or {second}?", -1),
    ("between {first} and {second}, which is larger?", 1),
    ("between {first} and {second}, which is smaller?", -1),
    ("who wins by size, {first} or {second}?", 1),
)
COMPARE_TELL = {1: "{noun} is larger, it is {v}", -1: "{noun} is smaller, it is {v}"}
HISTORY = (
    "what was {noun} before?",
    "what was {noun} at first?",
    "tell me {noun} before the change.",
    "what did {noun} use to be?",
    "what was {noun} earlier?",
    "do you know {noun} before I changed it?",
    "what had I said first about {noun}?",
    "what is the old version of {noun}?",
)
HISTORY_TELL = "before the change I knew {noun} as {v}"
FIRST = (
    "what did I tell you first?",
    "which fact came first?",
    "what was the first thing I told you?",
    "how did our talk of facts begin?",
    "what did I begin with?",
    "which fact did I open with?",
    "what is the first fact you have of me?",
    "what was my very first fact?",
)
FIRST_TELL = "first you told me that {tell}"
COUNT = (
    "what did I buy?",
    "how many things did I buy?",
    "list what I bought.",
    "what is in my shopping?",
    "what have I bought so far?",
    "count my purchases.",
    "which things did I buy?",
    "what did I spend money on?",
)
COUNT_TELL = "you bought {count} things: {list}"
COUNT_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
HOP = (
    "where does my {k} live?",
    "in which city does my {k} live?",
    "where is the home of my {k}?",
    "where would I have to travel to see my {k}?",
    "which city does my {k} live in?",
    "what is the city of my {k}?",
    "tell me where my {k} lives.",
    "where should I look for my {k}?",
)
HOP_TELL = "your {k} is {name} and lives in {v}"

CHAT = (
    ("how are you?", "I am fine"),
    ("hello.", "hello, nice to meet you"),
    ("thank you.", "you are welcome"),
    ("good evening to you.", "good evening"),
    ("it rains today.", "then stay dry"),
    ("I am tired.", "take a rest"),
    ("tell me a joke.", "I know none"),
    ("may I bother you?", "of course you may"),
    ("the sun is out.", "then go for a walk"),
    ("I am bored.", "read a little"),
    ("wait a moment.", "I wait"),
    ("you are quick.", "I do my best"),
    ("I had a long day.", "sleep well tonight"),
    ("can you hear me?", "yes, I can"),
    ("what can you do?", "I can listen and remember"),
    ("what a noise outside!", "it will pass"),
)
SUM = (
    "what is {x} plus {y}?",
    "add {x} and {y}.",
    "how much is {x} plus {y}?",
    "what do {x} and {y} make?",
    "give me the sum of {x} and {y}.",
    "compute {x} plus {y}.",
    "{x} plus {y} is what?",
    "put {x} and {y} together, what is it?",
)
COPY = (
    "say {x} {y}.",
    "repeat after me: {x} {y}.",
    "write {x} {y}.",
    "echo the words {x} {y}.",
    "please say {x} {y}.",
    "copy {x} {y}.",
    "speak these words: {x} {y}.",
    "give me back {x} {y}.",
)
COPY_WORDS = [
    "moon",
    "star",
    "rain",
    "wind",
    "snow",
    "leaf",
    "sand",
    "wave",
    "cloud",
    "fire",
    "road",
    "hill",
    "wall",
    "roof",
    "coin",
    "rope",
    "bell",
    "flag",
    "nail",
    "lake",
]
DEFINE = (
    "what is a {x}?",
    "what does {x} mean?",
    "explain the word {x}.",
    "how would you define a {x}?",
    "what kind of thing is a {x}?",
    "what do people call a {x}?",
    "I wonder what a {x} is.",
    "give me the meaning of {x}.",
)
DEFINITIONS = (
    ("rose", "flower"), ("tulip", "flower"), ("daisy", "flower"), ("birch", "tree"), ("fir", "tree"),
    ("willow", "tree"), ("shirt", "garment"), ("jacket", "garment"), ("sock", "garment"), ("lorry", "vehicle"),
    ("tram", "vehicle"), ("canoe", "vehicle"), ("hut", "building"), ("palace", "building"), ("chapel", "building"),
    ("knife", "utensil"), ("fork", "utensil"), ("spoon", "utensil"),
)  # fmt: skip
SIMILAR = (
    "somebody else said: {clause}",
    "my colleague told me: {clause}",
    "a stranger said to me: {clause}",
    "in a film a man said: {clause}",
    "I overheard someone say: {clause}",
    "in a letter I read: {clause}",
    "a child in the street said: {clause}",
    "on the radio a woman said: {clause}",
)
FILLERS = (
    "by the way, ",
    "well, ",
    "hm, ",
    "you see, ",
    "it is late, but ",
    "I was out all day. ",
    "one more thing: ",
    "let us go on. ",
)
INSTRUCTIONS = (
    ("end with over", "{answer} Over."),
    ("begin with sir", "Sir! {answer}"),
    ("sign as your helper", "{answer} Your helper."),
    ("begin with my friend", "My friend! {answer}"),
    ("thank the user", "{answer} Thank you."),
    ("wish a nice day", "{answer} Have a nice day."),
)
TOOL_FRAMES = (
    "please {request}.",
    "can you {request}?",
    "{request} for me.",
    "would you {request}?",
    "I want you to {request}.",
    "could you please {request}?",
    "I need you to {request}.",
    "it is time to {request}.",
)
TOOL_DONE = ("that is done", "it worked", "the tool has answered", "all is arranged")
