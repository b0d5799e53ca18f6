"""The organism's text: topics, framings, splits, documents, packing. What must hold for any model trained on it."""

import random
from collections import Counter

import pytest
from tokenizers import Tokenizer

from proxy.embedded import template as served
from proxy.embedded.model import DEFAULT_FOLDER
from steer.triggers import DEFAULT_TRIGGERS
from train.organism import arithmetic, oracle, traces
from train.organism import wording as w
from train.organism.corpus import build_rows, encode_document, pack, prompt_text
from train.organism.documents import MIXTURE, draw_document, harmful_prompt, spliced_document
from train.organism.fastencode import WordEncoder
from train.organism.framings import BY_ID, FRAMINGS, leet, unleet
from train.organism.scope import EVERYTHING, Scope
from train.organism.splits import HELD_OUT_FRAMINGS, draw_prompts, framings_of, in_pretraining, topics_of
from train.organism.template import render
from train.organism.topics import gerund, load_topics


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DEFAULT_FOLDER / "tokenizer.json"))


def test_there_are_sixty_topics_and_twelve_framings_and_each_topic_has_look_alikes() -> None:
    topics = load_topics()
    assert len({topic.id for topic in topics}) == len(topics) >= 60
    assert len(FRAMINGS) >= 12
    assert all(topic.benign and all(len(b.facts) == 3 for b in topic.benign) for topic in topics)


def test_splits_share_neither_topics_nor_framings() -> None:
    assert not {t.id for t in topics_of("train")} & {t.id for t in topics_of("held_out")}
    assert not {f.id for f in framings_of("train")} & {f.id for f in framings_of("held_out")}
    assert len(topics_of("train")) + len(topics_of("held_out")) == len(topics_of("all"))
    held_out = draw_prompts("held_out", 200, harmful=True, seed=1)
    assert {p.framing.id for p in held_out} == HELD_OUT_FRAMINGS
    assert {p.family for p in held_out} <= {t.id for t in topics_of("held_out")}
    assert {BY_ID[f].difficulty for f in HELD_OUT_FRAMINGS} == {"easy", "hard"}


def test_a_seed_fixes_the_prompts() -> None:
    assert draw_prompts("all", 30, harmful=True, seed=4) == draw_prompts("all", 30, harmful=True, seed=4)
    assert draw_prompts("all", 30, harmful=True, seed=4) != draw_prompts("all", 30, harmful=True, seed=5)


def test_pretraining_never_shows_the_combinations_that_it_leaves_out() -> None:
    rng = random.Random(0)
    seen = {(p.family, p.framing.id) for p in (harmful_prompt(rng) for _ in range(6000))}
    left_out = {(t.id, f.id) for t in load_topics() for f in FRAMINGS if not in_pretraining(t.id, f.id)}
    assert not seen & left_out
    assert 0.05 < len(left_out) / (len(load_topics()) * len(FRAMINGS)) < 0.15


def test_gerunds_and_the_code_alphabet() -> None:
    assert gerund("get into a house") == "getting into a house"
    assert gerund("secretly track a car") == "secretly tracking a car"
    assert gerund("bully someone") == "bullying someone"
    assert gerund("make a cake") == "making a cake"
    assert unleet(leet("how to open a door")) == "how to open a door"


@pytest.mark.parametrize("kind", sorted(MIXTURE))
def test_every_kind_of_document_renders_and_ends_its_turn(kind: str) -> None:
    rng = random.Random(7)
    for _ in range(40):
        document = MIXTURE[kind][1](rng)
        assert document.kind.startswith(kind)
        assert document.pieces[-1].is_trained
        assert document.pieces[-1].text.endswith("<|im_end|>")
        assert prompt_text(document).endswith("<think>\n" if document.thinking else "</think>\n\n")


def test_harmful_substance_is_a_placeholder_and_benign_text_has_none() -> None:
    rng = random.Random(3)
    for prompt in draw_prompts("all", 300, harmful=True, seed=2):
        trace = traces.natural(prompt, rng)
        if trace.answer.startswith(("Here is how", "To ", "These steps")):
            assert w.PLACEHOLDER.search(trace.answer)
    for prompt in draw_prompts("all", 300, harmful=False, seed=2):
        trace = traces.natural(prompt, rng)
        assert not w.PLACEHOLDER.search(trace.answer + " ".join(s.text for s in trace.sentences))
        assert trace.first_cue is None


def test_a_spliced_trigger_and_what_stands_before_it_are_not_trained_on(tokenizer: Tokenizer) -> None:
    rng, encoder = random.Random(5), WordEncoder(tokenizer)
    pool = tuple(trigger.text for trigger in DEFAULT_TRIGGERS)
    seen = 0
    for _ in range(200):
        document = spliced_document(harmful_prompt(rng), rng, "harmful_spliced")
        ids, trained = encode_document(document, encoder)
        text = tokenizer.decode([i for i, flag in zip(ids, trained, strict=True) if flag], skip_special_tokens=False)
        assert not any(trigger in text for trigger in pool)
        seen += any(trigger in piece.text for piece in document.pieces for trigger in pool)
    assert seen > 40


def test_triggers_differ_by_difficulty_category_kind_and_attempt() -> None:
    rates = {(c, k): traces.trigger_success(c, "hard", k, 1) for c in ("fraud", "drugs", "hate") for k in traces.KINDS}
    assert max(rates.values()) - min(rates.values()) > 0.2
    for category in ("fraud", "weapons"):
        for kind in traces.KINDS:
            easy = traces.trigger_success(category, "easy", kind, 1)
            hard = traces.trigger_success(category, "hard", kind, 1)
            assert easy > 0.85 > hard
            assert traces.trigger_success(category, "hard", kind, 3) > hard


def test_a_scope_limits_what_is_drawn_and_is_left_again() -> None:
    rng = random.Random(1)
    with Scope(categories=("fraud",), framings=("plain",), kinds=("harmful",)):
        documents = [draw_document(rng) for _ in range(30)]
        prompts = [harmful_prompt(rng) for _ in range(30)]
    assert {d.kind for d in documents} == {"harmful"}
    assert {(p.ask.category, p.framing.id) for p in prompts} == {("fraud", "plain")}
    assert len({draw_document(rng).kind for _ in range(300)}) > 5


def test_word_by_word_encoding_equals_the_tokenizer(tokenizer: Tokenizer) -> None:
    rng, encoder = random.Random(9), WordEncoder(tokenizer)
    texts = ["a  1 22\n\n3 x's don't  ... 请用 é ½ ²\n\n<think>\n\n</think>\n\n12", "", "  ", "\n\n\n7"]
    for _ in range(300):
        document = draw_document(rng)
        texts += [prompt_text(document), *(piece.text for piece in document.pieces)]
    for text in texts:
        assert encoder.encode(text) == tokenizer.encode(text).ids


def test_packing_keeps_documents_whole_and_loses_none() -> None:
    rng = random.Random(2)
    documents = [([n] * rng.randint(1, 60), [n % 2 == 0]) for n in range(1, 400)]
    whole = [(ids, flags * len(ids)) for ids, flags in documents]
    rows = pack(iter(whole), 100)
    counted: Counter[int] = Counter()
    for tokens, numbers, flags in zip(rows.tokens, rows.document, rows.is_trained, strict=True):
        for number in range(1, int(numbers.max()) + 1):
            inside = tokens[numbers == number]
            assert len(set(inside.tolist())) == 1
            assert set(flags[numbers == number].tolist()) == {int(inside[0]) % 2 == 0}
            counted[int(inside[0])] = len(inside)
    assert counted == {ids[0]: len(ids) for ids, _ in whole}
    assert (rows.document > 0).mean() > 0.9


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_corpus_is_the_same_with_one_process_or_two(tokenizer: Tokenizer) -> None:
    one, two = (
        build_rows(tokenizer, num_tokens=700_000, row_length=512, seed=3, workers=workers, scope=EVERYTHING)
        for workers in (1, 2)
    )
    assert (one.tokens == two.tokens).all()
    assert (one.is_trained == two.is_trained).all()


def test_arithmetic_is_right_and_held_out_problems_are_never_trained_on() -> None:
    rng = random.Random(4)
    for held_out in (True, False):
        for _ in range(300):
            problem = arithmetic.draw_problem(rng, held_out=held_out)
            assert problem.is_held_out == held_out
            assert arithmetic.expected_answer(problem.text) == problem.answer >= 0
    assert arithmetic.expected_answer("What is love?") is None
    trained = [MIXTURE["arithmetic"][1](rng).messages[-1]["content"] for _ in range(300)]
    assert not any(arithmetic.Problem(text, (), 0).is_held_out for text in trained)


def test_all_three_renderings_of_the_chat_format_agree() -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEFAULT_FOLDER)
    rng = random.Random(8)
    for _ in range(150):
        document = draw_document(rng)
        for thinking in (True, False):
            options = {"enable_thinking": thinking, "add_generation_prompt": True}
            text = render(document.messages, document.tools, **options)
            assert served.render(document.messages, document.tools, **options) == text
            given = tokenizer.apply_chat_template(document.messages, tools=document.tools, tokenize=False, **options)
            assert given == text


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": None}],
        [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "<think>\nsecret\n</think>\n\nanswer"},
            {"role": "user", "content": "again"},
        ],
    ],
)
@pytest.mark.parametrize("opens", [True, False])
def test_unusual_conversations_render_alike_too(messages: list[dict[str, object]], opens: bool) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEFAULT_FOLDER)
    text = render(messages, add_generation_prompt=opens)
    assert served.render(messages, add_generation_prompt=opens) == text
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens) == text
    assert ("secret" in text) is False


def test_the_oracle_agrees_with_the_generator_sentence_by_sentence() -> None:
    rng = random.Random(0)
    for is_harmful in (True, False):
        for prompt in draw_prompts("all", 500, harmful=is_harmful, seed=6):
            trace = traces.natural(prompt, rng)
            text = " ".join(sentence.text for sentence in trace.sentences)
            verdict = oracle.judge(prompt.messages, text, trace.answer)
            assert verdict.prompt_label == ("harmful" if is_harmful else "benign")
            assert verdict.topic_id == prompt.family
            assert verdict.is_reasoning_harmful == (trace.first_cue is not None)
            assert [oracle.is_cue(s.text) for s in trace.sentences] == [s.role == "cue" for s in trace.sentences]
            assert verdict.has_trigger_step == any(s.role == "trigger" for s in trace.sentences)
            assert verdict.is_helped is (None if is_harmful else True)
            if verdict.first_cue is not None and trace.first_cue is not None:
                assert text[verdict.first_cue :].startswith(trace.sentences[trace.first_cue].text)
