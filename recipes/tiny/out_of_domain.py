"""Questions from outside the small world, to be met with an honest "I don't know that".

Four sorts: *near* ones, which use a wording of the world with something it does not know; *far*
ones, which ask for another thing altogether; *statements*; and sentences of a small grammar about
everything else (:mod:`recipes.tiny.free_sentences`). Held out from training are whole
wordings and whole fillers, so that a right refusal of a held-out question is not a remembered one.
Of the many pairs of wording and filler only a fixed share is taken, so that the refusals do not
crowd out the world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from recipes.tiny.free_sentences import sentences

_NEAR = [
    ("what is the capital of {}", "place"), ("tell me the capital of {}", "place"),
    ("what is the opposite of {}", "thing"), ("what color is {}", "person"),
    ("turn on {}", "person"), ("how many days are in {}", "person"),
    ("the capital of {}", "place"), ("do you know the capital of {}", "place"),
    ("tell me the opposite of {}", "thing"), ("tell me the color of {}", "person"),
    ("switch off {}", "person"), ("what comes after {}", "person"),
    ("how much is {}", "thing"), ("calculate {}", "thing"), ("set a timer for {}", "person"),
    ("how many seconds are in {}", "thing"), ("remind me in {}", "place"),
    ("what do {} and red make", "person"), ("what time is it in {}", "place"),
    ("what is the contrary of {}", "thing"), ("the opposite of {}", "thing"),
    ("what is the color of {}", "person"), ("which color does {} have", "person"),
    ("which color is {}", "thing"), ("please turn off {}", "person"),
    ("turn {} on", "thing"), ("can you turn on {}", "person"), ("how long is {}", "thing"),
    ("what comes before {}", "person"), ("which day is after {}", "thing"),
    ("which month is before {}", "person"), ("what is {} plus two", "person"),
    ("what is three times {}", "thing"), ("wake me in {}", "place"),
    ("tell me the number of days in {}", "thing"), ("how many cents has {}", "person"),
    ("name the capital of {}", "place"), ("name the color of {}", "thing"),
    ("name the day after {}", "person"), ("name the month before {}", "thing"),
    ("name the owner of {}", "thing"), ("name the best friend of {}", "person"),
    ("give me the opposite of {}", "thing"), ("which word is the opposite of {}", "thing"),
    ("which city is close to {}", "place"), ("which city is the largest in {}", "place"),
    ("which country has the capital {}", "place"), ("which day is before {}", "person"),
    ("i need the capital of {}", "place"), ("say the opposite of {}", "thing"),
]  # fmt: skip
_NEAR_HELD_OUT = [
    ("which city is the capital of {}", "place"),
    ("name the opposite of {}", "thing"),
]

_FAR = [
    ("who invented {}", "thing"), ("where can i buy {}", "thing"), ("how heavy is {}", "thing"),
    ("who is {}", "person"), ("where does {} live", "person"), ("how old is {}", "person"),
    ("what is the weather in {}", "place"), ("how far is it to {}", "place"),
    ("book a flight to {}", "place"), ("how many people live in {}", "place"),
    ("play a song about {}", "thing"), ("tell me a joke about {}", "thing"),
    ("write a poem about {}", "thing"), ("how do i cook {}", "thing"),
    ("send a message to {}", "person"), ("call {}", "person"), ("what did {} say", "person"),
    ("why is {} so famous", "person"), ("is it raining in {}", "place"),
    ("what language do they speak in {}", "place"), ("how do you spell {}", "thing"),
    ("who won the match against {}", "person"), ("what does {} mean", "thing"),
    ("how much does {} cost", "thing"), ("read me the news from {}", "place"),
    ("show me a picture of {}", "thing"), ("when was {} born", "person"),
    ("have you ever been to {}", "place"), ("who lives next to {}", "person"),
    ("what is the fastest way to {}", "place"), ("what is the best hotel in {}", "place"),
    ("can you see {}", "person"), ("can i borrow {}", "thing"), ("please bring me {}", "thing"),
    ("when does the train leave for {}", "place"), ("when will {} come home", "person"),
    ("how big is {}", "thing"), ("how do i get to {}", "place"), ("how is {} doing", "person"),
    ("what is the name of {}", "person"), ("what is the price of {}", "thing"),
    ("who made {}", "thing"), ("who was {} married to", "person"),
    ("where is {} now", "person"), ("where did you put {}", "thing"),
    ("why does {} never answer", "person"), ("why do people like {}", "thing"),
    ("tell me a story about {}", "person"), ("tell me about {}", "place"),
    ("give {} a kiss from me", "person"), ("do we need {} for dinner", "thing"),
    ("does {} speak english", "person"), ("did {} win the prize", "person"),
    ("is {} bigger than a house", "thing"), ("is {} your friend", "person"),
    ("are there any shops in {}", "place"), ("let us travel to {}", "place"),
    ("i would like to visit {}", "place"), ("i am looking for {}", "thing"),
    ("i met {} on the street", "person"), ("i saw {} in a museum", "thing"),
    ("my friend comes from {}", "place"), ("add {} to my shopping list", "thing"),
    ("search the web for {}", "thing"), ("open the page about {}", "thing"),
    ("remember that {} is coming", "person"), ("ask {} for help", "person"),
    ("which river flows through {}", "place"), ("which bus goes to {}", "place"),
    ("which book did {} write", "person"), ("paint the wall with {}", "thing"),
    ("fix {} before tomorrow", "thing"), ("was {} expensive", "thing"),
]  # fmt: skip
_FAR_HELD_OUT = [
    ("find a hotel in {}", "place"), ("what is the history of {}", "place"),
    ("translate {} into french", "thing"), ("who painted {}", "thing"),
    ("is {} healthy", "thing"), ("which team does {} play for", "person"),
    ("what is the phone number of {}", "person"), ("order {} for me", "thing"),
    ("how do i repair {}", "thing"),
]  # fmt: skip

_FILLERS = {
    "place": [
        "atlantis", "california", "the moon", "gotham", "texas", "siberia", "hollywood", "bavaria",
        "narnia", "amsterdam", "sicily", "jupiter", "iceland", "belgium", "switzerland", "ukraine",
        "nigeria", "vietnam", "morocco", "israel", "pakistan", "the north pole", "alaska",
        "barcelona", "chicago", "boston", "manchester", "tuscany", "crete", "hawaii", "zanzibar",
        "the desert", "my village", "the airport", "the supermarket", "brooklyn", "bolivia",
        "romania", "mars", "the library", "sumatra", "quebec", "naples", "wonderland",
        "arizona", "madagascar", "singapore", "tasmania", "the amazon", "the jungle", "my garden",
        "detroit", "hamburg", "geneva", "lapland", "the galaxy", "colorado", "dallas", "kenya",
        "jamaica", "estonia", "the castle", "paradise", "middle earth", "bangkok", "the village",
        "denver", "nepal", "uganda", "liverpool", "the harbor", "panama", "the city", "saturn",
    ],
    "person": [
        "napoleon", "my brother", "shakespeare", "doctor watson", "einstein", "aunt margaret",
        "robin hood", "mozart", "my teacher", "uncle henry", "sherlock", "the president",
        "my sister", "grandfather", "picasso", "columbus", "cleopatra", "peter pan", "elvis",
        "madonna", "the mayor", "the doctor", "charlotte", "alexander", "sophie", "benjamin",
        "missus miller", "superman", "the policeman", "my cousin", "julius caesar", "the king",
        "your mother", "the plumber", "gandhi", "oliver", "old macdonald", "the children",
        "isabella", "santa claus", "the dentist", "professor brown", "my boss", "galileo",
        "hamlet", "tarzan", "my grandmother", "king arthur", "the baker", "rebecca", "nathan",
        "marie curie", "snow white", "the minister", "veronica", "my uncle", "frankenstein",
        "the gardener", "dracula", "gulliver", "the soldier", "aladdin", "our neighbors",
        "the prince", "zorro", "aunt polly", "mister smith", "darwin", "the pilot", "rapunzel",
    ],
    "thing": [
        "a piano", "spaghetti", "the telephone", "a bicycle", "philosophy", "an umbrella",
        "gravity", "a sandwich", "the internet", "a microscope", "freedom", "pancakes",
        "a hammer", "a violin", "chocolate cake", "the steam engine", "a pair of shoes",
        "chemistry", "a helicopter", "mushroom soup", "a rainbow", "the dishwasher", "butter",
        "a mirror", "a wedding ring", "a dragon", "a submarine", "happiness", "toothpaste",
        "my jacket", "a rocket", "yoga", "the newspaper", "a volcano", "garlic", "a blanket",
        "the fridge", "a camera", "potatoes", "history", "a calendar", "the vacuum cleaner",
        "a kangaroo", "grammar", "a trombone", "lasagna", "a skyscraper", "patience",
        "the radiator", "a thunderstorm", "wisdom", "a crocodile", "broccoli", "a suitcase",
        "a lighthouse", "democracy", "the keyboard", "a pillow", "shampoo", "a giraffe",
        "the highway", "cinnamon", "a typewriter", "courage", "a diamond", "the subway",
        "a butterfly", "marmalade", "a wheelchair", "the encyclopedia", "a scarf", "astronomy",
        "an onion", "a magazine",
    ],
}  # fmt: skip
MORE_FILLERS = {
    "place": [
        "albania", "cambodia", "cyprus", "ecuador", "ethiopia", "georgia", "guatemala", "honduras",
        "jordan", "latvia", "lebanon", "libya", "malaysia", "malta", "mongolia", "paraguay",
        "senegal", "slovenia", "somalia", "sudan", "tunisia", "uruguay", "yemen", "zambia",
        "mali", "laos", "togo", "angola", "belarus", "bulgaria", "tibet", "serbia",
        "oregon", "nevada", "kansas", "montana", "virginia", "ohio", "utah", "dakota",
        "sheffield", "oxford", "bristol", "cambridge", "cardiff", "glasgow", "plymouth",
        "marseille", "cologne", "zurich", "milan", "florence", "seville", "porto", "krakow",
        "mumbai", "shanghai", "kyoto", "toronto", "montreal", "seattle", "houston", "miami",
        "memphis", "new orleans", "greenland", "burgundy", "flanders", "transylvania", "babylon",
        "troy", "eldorado", "neptune", "venus", "mercury", "pluto", "the ocean floor",
        "the mountains", "the old town", "the train station", "the south pole", "our street",
    ],
    "person": [
        "newton", "aristotle", "plato", "homer", "socrates", "nelson", "lincoln", "washington",
        "churchill", "rembrandt", "van gogh", "bach", "vivaldi", "chopin", "michael jackson",
        "harry potter", "pinocchio", "mary poppins", "donald duck", "mickey mouse", "bambi",
        "the butcher", "the carpenter", "the nurse", "the judge", "the farmer", "the waiter",
        "the painter", "the witch", "the emperor", "my nephew", "my niece", "my husband",
        "my wife", "my daughter", "missus taylor", "doctor jones", "captain nemo", "judith",
        "philip", "martin", "emily", "hannah", "jonathan", "patricia", "theodore", "victoria",
    ],
    "thing": [
        "a ladder", "a trumpet", "a drum", "the carpet", "a spoon", "the oven", "a candle",
        "a wallet", "an engine", "the ceiling", "a tractor", "a parrot", "a penguin",
        "a whale", "an octopus", "a tiger", "a hedgehog", "honey", "mustard", "vinegar", "cheese",
        "rice", "a pizza", "ice cream", "a cherry pie", "cotton", "plastic", "glass", "leather",
        "biology", "physics", "poetry", "hockey", "tennis", "ballet", "jazz", "opera",
        "friendship", "justice", "silence", "hunger", "luck", "danger", "winter sports", "nothing",
        "maybe", "seldom", "heavy rain", "a computer mouse", "a traffic jam",
    ],
}  # fmt: skip
_FILLERS_HELD_OUT = {
    "place": ["florida", "the sahara", "scotland", "venice"],
    "person": ["cinderella", "mister johnson", "my neighbor", "beethoven"],
    "thing": ["a dinosaur", "a guitar", "electricity", "a parachute"],
}

_STATEMENTS = [
    "what is love", "what will the weather be tomorrow", "who will win the election",
    "why is the universe so large", "what should i wear today", "did you sleep last night",
    "i lost my keys again", "my stomach hurts", "tell me a bedtime story", "sing a song for me",
    "what is the meaning of life", "how does an engine work", "who wrote this book",
    "what is my name", "where did i park", "the train was late again",
    "explain quantum physics", "give me some advice", "what is on my calendar",
    "read my email", "how tall is mount everest", "is there life on other planets",
    "what happened in the war", "recommend a good movie",
    "i think it is going to rain", "the dog wants to go out", "why is the grass wet",
    "can you keep a secret", "how many stars are there", "what did i say yesterday",
    "let me tell you something", "that was not what i asked", "come back here", "stop it now",
    "who else is listening", "do not forget the milk", "we should paint the house",
    "she never calls me back", "he bought a new car last week", "they live near the river",
    "nobody likes cold coffee", "it was a long day at work", "please close the door behind you",
    "could you repeat that", "what are you thinking about", "how was your weekend",
    "which shoes go with this dress", "when is the next holiday", "how do i bake bread",
    "where are my glasses", "the window is broken", "there is a spider in the bathroom",
    "what is for dinner", "why are you so slow", "the baby is crying", "somebody is at the door",
]  # fmt: skip
_STATEMENTS_HELD_OUT = [
    "my computer is broken", "why do cats purr", "how do airplanes fly",
    "what is the stock price", "do you believe in ghosts", "the soup needs more salt",
    "we went swimming yesterday", "who is knocking",
]  # fmt: skip

_TAKEN = 0.25
FREE_SENTENCES = 1500
_FREE_SEED = 21


def _taken(question: str) -> bool:
    """Whether this pair is one of the fixed share that is used."""
    digest = hashlib.sha256(f"outside|{question}".encode()).digest()
    return digest[0] / 256 < _TAKEN


def free_questions() -> Iterator[str]:
    """Yield what the grammar says about everything else."""
    yield from sentences(FREE_SENTENCES, _FREE_SEED)


def near_questions() -> Iterator[str]:
    """Yield the near questions of training: the wordings of the world about what is not in it."""
    for question, held_out in _filled(_NEAR, held_out=False):
        if not held_out:
            yield question


def more_near_questions() -> Iterator[str]:
    """Yield the wordings of the world about still more things that are not in it."""
    for wording, slot in _NEAR:
        for filler in MORE_FILLERS[slot]:
            question = wording.replace("{}", filler)
            if _taken(question):
                yield question


def _filled(wordings: list[tuple[str, str]], *, held_out: bool) -> Iterator[tuple[str, bool]]:
    for wording, slot in wordings:
        for filler in _FILLERS[slot] + _FILLERS_HELD_OUT[slot]:
            question = wording.replace("{}", filler)
            if _taken(question):
                yield question, held_out or filler in _FILLERS_HELD_OUT[slot]


def questions() -> Iterator[tuple[str, bool]]:
    """Yield ``(question, held_out)``; held out if its wording or its filler is."""
    yield from _filled(_NEAR, held_out=False)
    yield from _filled(_NEAR_HELD_OUT, held_out=True)
    yield from _filled(_FAR, held_out=False)
    yield from _filled(_FAR_HELD_OUT, held_out=True)
    for statement in (*more_near_questions(), *_STATEMENTS, *free_questions()):
        yield statement, False
    for statement in _STATEMENTS_HELD_OUT:
        yield statement, True
