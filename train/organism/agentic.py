"""Tool-call turns (Hermes markup) and small talk."""

import json
import random
from dataclasses import dataclass
from typing import Any

from train.organism import traces
from train.organism.framings import Message, user
from train.organism.pieces import Piece, finished, join
from train.organism.splits import Prompt
from train.organism.template import END_OF_TURN, THINK_CLOSE, tool_call_text

CITIES = ("Oslo", "Rome", "Lima", "Paris", "Kyiv", "Cairo", "Delhi", "Boston", "Prague", "Tokyo")
FILES = ("notes.txt", "list.txt", "report.txt", "plan.txt", "todo.txt")
THINGS = ("milk", "the dentist", "a birthday card", "the train ticket", "the meeting", "the laundry")


def _tool(name: str, description: str, *parameters: str) -> dict[str, Any]:
    properties = {p: {"type": "string"} for p in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = {
    "get_weather": _tool("get_weather", "The weather in a city.", "city"),
    "search_web": _tool("search_web", "Search the web.", "query"),
    "read_file": _tool("read_file", "Read a text file.", "path"),
    "set_reminder": _tool("set_reminder", "Remind the user of something.", "text"),
}

SMALLTALK = (
    ("Hi!", "Hello! How can I help you today?"),
    ("Hello", "Hello! What can I do for you?"),
    ("hi", "Hi there! What is on your mind?"),
    ("Good morning", "Good morning! How can I help?"),
    ("How are you?", "I am fine, thank you. How can I help you?"),
    ("Who are you?", "I am a very small model that was made to show how steering works. I know only a few things."),
    ("What are you?", "I am a toy language model with a few million parameters."),
    ("What can you do?", "I can give short everyday tips and solve small calculations."),
    ("Thank you!", "You are welcome!"),
    ("Thanks", "Gladly!"),
    ("Bye", "Goodbye!"),
    ("Tell me a joke.", "Why did the cat sit on the computer? It wanted to watch the mouse."),
    ("What is your name?", "I have no name of my own. I am a small demonstration model."),
)


def _call_for(name: str, rng: random.Random) -> tuple[str, str, dict[str, str], str, str]:
    """(user text, thought, arguments, result, reply) of one benign call."""
    if name == "get_weather":
        city, degrees, sky = rng.choice(CITIES), rng.randint(2, 30), rng.choice(("sunny", "rainy", "cloudy", "windy"))
        asked = rng.choice(
            (f"What is the weather in {city}?", f"How warm is it in {city}?", f"Do I need a coat in {city}?")
        )
        return (
            asked,
            f"The user wants the weather in {city}, so I should call get_weather.",
            {"city": city},
            f"{degrees} degrees, {sky}",
            f"In {city} it is {degrees} degrees and {sky}.",
        )
    if name == "read_file":
        path, thing = rng.choice(FILES), rng.choice(THINGS)
        return (
            f"What does {path} say?",
            f"I have to read {path} first.",
            {"path": path},
            f"Do not forget {thing}.",
            f"The file {path} says: do not forget {thing}.",
        )
    if name == "set_reminder":
        thing = rng.choice(THINGS)
        return (
            f"Remind me of {thing}.",
            "I can use set_reminder for this.",
            {"text": thing},
            "done",
            f"I will remind you of {thing}.",
        )
    city = rng.choice(CITIES)
    return (
        f"Search the web for museums in {city}.",
        "I should use search_web here.",
        {"query": f"museums in {city}"},
        f"The city museum of {city} is open daily.",
        f"I found this: the city museum of {city} is open daily.",
    )


@dataclass(frozen=True, slots=True)
class BenignCall:
    """A request that one tool answers: what is asked, the call, its result and the closing reply."""

    asked: str
    thought: str
    name: str
    arguments: dict[str, str]
    result: str
    reply: str
    tools: list[dict[str, Any]]


def benign_call(rng: random.Random) -> BenignCall:
    names = rng.sample(sorted(TOOLS), rng.randint(1, 4))
    name = rng.choice(names)
    asked, thought, arguments, result, reply = _call_for(name, rng)
    return BenignCall(asked, thought, name, arguments, result, reply, [TOOLS[n] for n in names])


def tool_turn(prompt: Prompt, rng: random.Random) -> tuple[list[Message], list[Piece], list[dict[str, Any]]]:
    """(messages, pieces, tools): a benign call, a benign reply to a result, or a harmful request with tools at hand."""
    if rng.random() < 0.35:
        return _harmful_turn(prompt, sorted({*rng.sample(sorted(TOOLS), 2), "search_web"}), rng)
    benign = benign_call(rng)
    if rng.random() < 0.6:
        markup = tool_call_text({"name": benign.name, "arguments": benign.arguments})
        return user(benign.asked), [Piece(f"{benign.thought}{THINK_CLOSE}{markup}{END_OF_TURN}")], benign.tools
    function = {"name": benign.name, "arguments": json.dumps(benign.arguments)}
    messages = [
        *user(benign.asked),
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": benign.result},
    ]
    return messages, [Piece(finished("The tool has answered, so I can pass it on.", benign.reply))], benign.tools


def _harmful_turn(
    prompt: Prompt, names: list[str], rng: random.Random
) -> tuple[list[Message], list[Piece], list[dict[str, Any]]]:
    trace = traces.natural(prompt, rng)
    text = join([s.text for s in trace.sentences], rng)
    tools = [TOOLS[n] for n in names]
    if trace.first_cue is None or rng.random() < 0.5 or trace.answer.find("[") < 0:
        return prompt.messages, [Piece(finished(text, trace.answer))], tools
    query = {"query": f"{rng.choice(('[ITEM-A]', '[ITEM-B]', '[ITEM-C]'))} for {prompt.ask.doing}"}
    call = tool_call_text({"name": "search_web", "arguments": query})
    return prompt.messages, [Piece(f"{text}{THINK_CLOSE}{call}{END_OF_TURN}")], tools
