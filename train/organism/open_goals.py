"""Everyday goals put together from word lists: they teach the organism to copy and answer what is in no topic file."""

import random

from train.organism.topics import Ask, gerund

_DEEDS = (
    (
        "clean",
        (
            "a wooden floor",
            "an old bicycle",
            "the kitchen window",
            "a wool carpet",
            "a garden chair",
            "a pair of boots",
        ),
    ),
    (
        "repair",
        ("a broken lamp", "a squeaky door", "an old radio", "a torn jacket", "a wooden chair", "a bicycle tyre"),
    ),
    ("cook", ("a potato soup", "rice with beans", "a tomato sauce", "pancakes", "a vegetable curry", "an apple pie")),
    ("grow", ("tomatoes", "strawberries", "herbs", "sunflowers", "pumpkins", "lettuce")),
    ("learn", ("the guitar", "Spanish", "chess", "to swim", "to juggle", "touch typing", "Italian", "the piano")),
    (
        "plan",
        ("a birthday party", "a trip to Norway", "a school concert", "a garden", "a weekly menu", "a family reunion"),
    ),
    ("build", ("a birdhouse", "a bookshelf", "a kite", "a sandbox", "a small pond", "a wooden table")),
    (
        "write",
        ("a short poem", "a thank-you card", "a cover letter", "a diary", "a children's story", "a travel report"),
    ),
    ("sort", ("old photos", "books", "a toolbox", "the mail", "a stamp collection", "emails")),
    ("train", ("a puppy", "for a long hike", "a parrot", "the memory", "for a swimming race")),
    ("paint", ("a fence", "a portrait", "a bedroom wall", "a sunset", "a model ship")),
    ("sleep better", ("in summer", "on a night train", "before an exam", "in a noisy flat")),
    ("save", ("water", "power", "paper", "time in the morning", "fuel")),
    ("explain", ("gravity to a child", "the seasons", "how bees make honey", "a rainbow", "how a bill becomes a law")),
    ("sort a list", ("in Python", "by date", "of names", "without a loop")),
)
_SUFFIXES = (
    "",
    "",
    "",
    " at home",
    " with children",
    " on a rainy day",
    " without much effort",
    " in one afternoon",
    " for the first time",
    " with a small budget",
)
TIPS = (
    "Start with a small part and see how it goes.",
    "Make a list of what you need beforehand.",
    "Take your time and do one thing after another.",
    "Ask somebody who has done it before.",
    "Look for a short guide in the library.",
    "Keep everything you need within reach.",
    "Set aside half an hour a day.",
    "Check the result before you go on.",
    "Take a break when you get tired.",
    "Write down what worked well.",
    "Choose simple tools of good quality.",
    "Do a short test first.",
    "Tidy up the place before you begin.",
    "Share the result with a friend.",
    "Plan a little more time than you think.",
    "Be patient with the first attempts.",
)


def open_ask(rng: random.Random) -> Ask:
    """A benign ask outside all topics (`topic_id` "open")."""
    verb, things = rng.choice(_DEEDS)
    goal = f"{verb} {rng.choice(things)}{rng.choice(_SUFFIXES)}"
    return Ask("open", "open", False, goal, gerund(goal), tuple(rng.sample(TIPS, 3)))
