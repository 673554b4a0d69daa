"""The facts of the small world that the shipped model knows, as plain data.

Everything is written the way it is spoken: lower case, numbers as words, no punctuation except the
apostrophe. The question and answer wordings stand in :mod:`recipes.tiny.world`.
"""

from __future__ import annotations

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number_words(value: int) -> str:
    """Spell ``value`` (0 to 999) in words: ``42 -> "forty two"``."""
    if not 0 <= value < 1000:
        raise ValueError(f"number {value} is outside 0..999, which this world can spell")
    if value < 20:
        return _UNITS[value]
    if value < 100:
        tens, unit = divmod(value, 10)
        return _TENS[tens - 2] + (f" {_UNITS[unit]}" if unit else "")
    hundreds, rest = divmod(value, 100)
    return f"{_UNITS[hundreds]} hundred" + (f" {number_words(rest)}" if rest else "")


OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("high", "low"), ("light", "dark"),
    ("open", "closed"), ("happy", "sad"), ("rich", "poor"), ("strong", "weak"), ("young", "old"),
    ("early", "late"), ("full", "empty"), ("hard", "soft"), ("clean", "dirty"), ("wet", "dry"),
    ("long", "short"), ("near", "far"), ("up", "down"), ("left", "right"), ("inside", "outside"),
    ("first", "last"), ("day", "night"), ("true", "false"), ("thick", "thin"), ("wide", "narrow"),
    ("loud", "quiet"), ("above", "below"), ("always", "never"), ("sweet", "sour"),
    ("brave", "afraid"),
]  # fmt: skip

DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
]  # fmt: skip
MONTH_DAYS = dict(zip(MONTHS, [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], strict=True))

CAPITALS = {
    "france": "paris", "germany": "berlin", "italy": "rome", "spain": "madrid",
    "portugal": "lisbon", "england": "london", "ireland": "dublin", "norway": "oslo",
    "sweden": "stockholm", "denmark": "copenhagen", "finland": "helsinki", "poland": "warsaw",
    "austria": "vienna", "hungary": "budapest", "greece": "athens", "russia": "moscow",
    "turkey": "ankara", "egypt": "cairo", "kenya": "nairobi", "china": "beijing",
    "japan": "tokyo", "korea": "seoul", "india": "new delhi", "thailand": "bangkok",
    "canada": "ottawa", "mexico": "mexico city", "cuba": "havana", "brazil": "brasilia",
    "argentina": "buenos aires", "chile": "santiago", "peru": "lima", "australia": "canberra",
}  # fmt: skip

COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a banana": "yellow",
    "a carrot": "orange", "blood": "red", "a lemon": "yellow", "milk": "white",
    "chocolate": "brown", "a tomato": "red", "an elephant": "gray", "the sun": "yellow",
    "a strawberry": "red", "a leaf": "green", "a cloud": "white", "a raven": "black",
    "a frog": "green", "a flamingo": "pink", "an eggplant": "purple", "a pumpkin": "orange",
    "the ocean": "blue",
}  # fmt: skip

MIXTURES = {
    ("red", "blue"): "purple", ("red", "yellow"): "orange", ("blue", "yellow"): "green",
    ("red", "white"): "pink", ("black", "white"): "gray",
}  # fmt: skip

UNITS = {
    ("seconds", "a minute"): 60, ("minutes", "an hour"): 60, ("hours", "a day"): 24,
    ("days", "a week"): 7, ("months", "a year"): 12, ("weeks", "a year"): 52,
    ("years", "a century"): 100, ("years", "a decade"): 10, ("centimeters", "a meter"): 100,
    ("millimeters", "a centimeter"): 10, ("inches", "a foot"): 12, ("feet", "a yard"): 3,
    ("eggs", "a dozen"): 12, ("cents", "a dollar"): 100, ("legs", "a spider"): 8,
    ("legs", "a dog"): 4, ("wheels", "a car"): 4, ("sides", "a triangle"): 3,
    ("sides", "a square"): 4, ("letters", "the alphabet"): 26, ("fingers", "a hand"): 5,
    ("players", "a football team"): 11,
}  # fmt: skip

DEVICES = [
    "the kitchen light", "the bedroom light", "the bathroom light", "the garden light",
    "the lamp", "the fan", "the heater", "the radio", "the television", "the coffee machine",
    "the music", "the alarm",
]  # fmt: skip

TIMER_AMOUNTS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 45, 50]
TIMER_UNITS = ["second", "minute", "hour"]

SMALL_TALK: dict[str, list[str]] = {
    "hello there how can i help": ["hello", "hi there", "good day", "hey", "hello assistant"],
    "good morning to you": ["good morning", "good morning assistant"],
    "good evening to you": ["good evening", "good evening assistant"],
    "good night sleep well": ["good night", "i am going to bed", "time to sleep"],
    "i am fine thank you": ["how are you", "how are you today", "are you well"],
    "you are welcome": ["thank you", "thanks a lot", "thank you very much", "many thanks"],
    "goodbye see you soon": ["goodbye", "bye bye", "see you later", "i have to go"],
    "i am a small talking model": ["who are you", "what are you", "tell me about yourself"],
    "i can answer small questions": [
        "what can you do", "how can you help me", "what do you know",
    ],
    "no problem at all": ["sorry", "i am sorry", "excuse me"],
    "i run on this device": ["where do you run", "where are you", "are you in the cloud"],
    "nice to meet you": ["nice to meet you", "pleased to meet you"],
}  # fmt: skip

UNKNOWN_ANSWER = "i don't know that"
