"""Texts that say they have no answer are told from answers."""

from __future__ import annotations

import pytest

from rttc_graph.support.refusals import is_refusal

REFUSALS = [
    "I do not know.",
    "I don't know",
    "I don\u2019t know the answer to that.",
    "Sorry, I cannot answer this question.",
    "I'm sorry, but I can't help with that.",
    "I am not sure.",
    "I'm not sure what you mean.",
    "I have no information about that.",
    "We do not have enough information to say.",
    "Unfortunately, I don't have access to your account. Please contact support.",
    "There is not enough information in the samples.",
    "The provided context does not mention the price.",
    "The question cannot be answered from the text.",
    "It is not possible to say.",
    "As an AI language model, I cannot give legal advice.",
    "No idea.",
    "unanswerable",
    "Not specified.",
    "I don't know, but please feel free to ask something else.",
    "<think>What could it be? 35 euros?</think>I do not know.",
    "**I do not know.**",
    "Das weiß ich nicht. Ich weiß es leider nicht.",
    "Je ne sais pas.",
    "No lo sé.",
]

ANSWERS = [
    "",
    "35 euros",
    "A helmet costs 35 euros.",
    "Unknown",
    "No",
    "no",
    "None",
    "card_not_working",
    "unable_to_verify_identity",
    "You do not have to pay for the helmet.",
    "The helmet is not included in the price.",
    "If you do not know your PIN, ask for a new one in the app.",
    "If you cannot find your card, block it in the app.",
    "I do not know for sure, but it is 35 euros.",
    "I'm not sure, though I think the answer is Paris.",
    "A helmet costs 35 euros. I do not know about locks.",
    "Tell the driver that you are not sure of the way.",
    "Your data is not shared with anybody.",
    "It is not possible to cancel after 14 days.",
    "No information is shared with advertisers.",
    "This is not mentioned on the bill but in the app.",
    "Your question does not contain a price, so here it is: 35 euros.",
    "I don't know. " * 40,
    "<think>I do not know.</think>35 euros",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer(text: str) -> None:
    assert not is_refusal(text)
