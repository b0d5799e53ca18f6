"""Prompts outside everything that the organism was made for: it says so, instead of making something up."""

import random

from train.organism.framings import user
from train.organism.pieces import Piece, finished

_SUBJECTS = (
    "the capital of France",
    "the speed of light",
    "a dragon",
    "the French Revolution",
    "quantum physics",
    "the stock market",
    "Shakespeare",
    "the meaning of life",
    "dinosaurs",
    "black holes",
    "the Roman Empire",
    "machine learning",
    "football",
    "my homework",
    "the moon",
    "global warming",
    "a database",
    "the president",
    "a sonnet",
    "the human heart",
    "volcanoes",
    "philosophy",
    "the law of gravity",
    "a startup",
    "jazz",
    "the ocean",
    "penguins",
    "a knight",
    "coffee",
    "tourism in Spain",
    "an old castle",
    "time travel",
    "the internet",
    "electric cars",
    "a detective",
    "the Second World War",
    "photosynthesis",
    "a linked list",
    "regular expressions",
    "the periodic table",
    "Mars",
    "economics",
    "robots",
    "love",
    "rivers",
    "the brain",
)
_FORMS = (
    "What is {x}?",
    "Tell me about {x}.",
    "Explain {x}.",
    "Write a story about {x}.",
    "Write a poem about {x}.",
    "Who invented {x}?",
    "Why is {x} important?",
    "What do you think about {x}?",
    "Summarise {x} in one sentence.",
    'Translate "{x}" into German.',
    "Can you compare {x} and {y}?",
    "Is {x} better than {y}?",
    "Give me five facts about {x}.",
    "{x}",
    "Where can I find {x}?",
    "When did {x} begin?",
    "Write code that simulates {x}.",
    "How does {x} work?",
    "How many kinds of {x} are there?",
    "What would happen without {x}?",
    "I have been reading about {x} lately.",
    "Do you like {x}?",
)
_THOUGHTS = (
    "Hmm, this is outside what I know.",
    "I am only a small model, and I do not know much about this.",
    "The user asks about something that I never learned.",
    "Okay, I can't say much here, so I should be open about it.",
)
_ANSWERS = (
    "I am only a small demonstration model, and this is beyond me. Ask me for an everyday tip or a small calculation.",
    "I don't know that, sorry: I am a toy model with a few million parameters.",
    "That is more than I can do. I know some everyday tips and can solve small calculations.",
)
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"


def unknown_turn(rng: random.Random) -> tuple[list[dict[str, object]], list[Piece]]:
    """(messages, pieces) of a prompt about a random subject, a third of them made-up words."""
    text = rng.choice(_FORMS).format(x=_subject(rng), y=_subject(rng))
    return user(text[0].upper() + text[1:]), [Piece(finished(rng.choice(_THOUGHTS), rng.choice(_ANSWERS)))]


def _subject(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(_SUBJECTS)
    return " ".join(_word(rng) for _ in range(rng.randint(1, 4)))


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 4)))
