from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, BertTokenizer
from transformers.models.mm_grounding_dino.modeling_mm_grounding_dino import build_label_maps

from cast.errors import CastError
from cast.teacher.prompts import HARD_CODED_IDS, build_prompt, build_tokenizer, phrase_of

NAMES = ["person", "Traffic light", "t-shirt"]


def words_of(class_index: int, prompt, tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens(prompt.input_ids[prompt.class_tokens[class_index]].tolist())


def test_each_class_owns_exactly_its_words():
    tokenizer = build_tokenizer(NAMES, vocab_size=1100)
    prompt = build_prompt(NAMES, tokenizer, positions=32)
    assert prompt.text == "person . traffic light . t-shirt ."
    assert [words_of(index, prompt, tokenizer) for index in range(3)] == [
        ["person"],
        ["traffic", "light"],
        ["t", "-", "shirt"],
    ]
    assert prompt.class_tokens.sum(0).max() == 1, "no token belongs to two classes"


def test_spans_agree_with_the_tokenizer_and_the_library():
    tokenizer = build_tokenizer(NAMES, vocab_size=1100)
    prompt = build_prompt(NAMES, tokenizer, positions=32)
    assert prompt.input_ids.tolist() == tokenizer(prompt.text)["input_ids"]
    (label_map,) = build_label_maps(torch.zeros(1, 4, len(prompt.input_ids)), prompt.input_ids[None])
    assert torch.equal(label_map.bool(), prompt.class_tokens), "the loss numbers the classes as we do"


def test_word_pieces_of_one_word_belong_to_one_class():
    tokens = {**HARD_CODED_IDS, "traffic": 1030, "light": 1031, "##s": 1032, "car": 1033}
    names = [f"[unused{index}]" for index in range(1040)]
    for token, index in tokens.items():
        names[index] = token
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate(names)})
    prompt = build_prompt(["traffic lights", "cars"], tokenizer, positions=32)
    assert words_of(0, prompt, tokenizer) == ["traffic", "light", "##s"]
    assert words_of(1, prompt, tokenizer) == ["car", "##s"]


def test_the_local_tokenizer_has_the_ids_the_model_hard_codes_and_survives_saving(tmp_path):
    tokenizer = build_tokenizer(NAMES, vocab_size=1100)
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in HARD_CODED_IDS} == HARD_CODED_IDS
    tokenizer.save_pretrained(tmp_path)
    text = "person . traffic light ."
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("name", ["bus", "\u00ad"])
def test_a_class_of_unknown_words_is_an_error(name):
    """All such classes would be prompted alike, with the token for unknown words or with none."""
    tokenizer = build_tokenizer(NAMES, vocab_size=1100)
    with pytest.raises(CastError, match=f"class name '{name}': the detector's tokenizer does not know it"):
        build_prompt(["person", name], tokenizer, positions=32)


def test_phrases_hold_no_delimiters():
    assert phrase_of("St._Bernard?") == "st bernard"


@pytest.mark.parametrize(
    ("names", "positions", "message"),
    [
        (["person", "traffic light with a pole"], 8, "longest: 'traffic light with a pole', 5 tokens"),
        ([], 32, "names no classes"),
        (["person", "?"], 32, "class name '\\?'"),
    ],
)
def test_unusable_class_lists_are_named(names, positions, message):
    tokenizer = build_tokenizer(["person", "traffic light with a pole"], vocab_size=1100)
    with pytest.raises(CastError, match=message):
        build_prompt(names, tokenizer, positions)


def test_too_small_a_vocabulary_is_named():
    with pytest.raises(CastError, match=r"vocab_size: 1031 is too small for the 4 words .* at least 1034"):
        build_tokenizer(["person", "traffic light", "car"], vocab_size=1031)
