"""What the user says in the scenario sets that come with aizuchi: plain English about everyday things.

A set of one's own is a JSON file of the same form (see docs/evaluation.md): each kind of scenario with its
list; "|" marks where a speaker pauses in mid-sentence.
"""

from __future__ import annotations

from typing import Any

TURN = [
    "Hello there, how are you doing today?",
    "What is seven plus two?",
    "Could you tell me what day comes after Tuesday?",
    "What's the opposite of cold?",
    "I would like to know what sound a cow makes.",
    "How much is nine take away four?",
    "Which month comes right before June?",
    "Would you tell me your name?",
    "What color is grass?",
    "How do you spell dog?",
    "If I have three apples and buy four more, how many do I have?",
    "What number comes after fourteen?",
    "Do you know any jokes?",
    "What is five times two?",
    "Tell me, which day is it before Sunday?",
    "What's the opposite of up?",
    "Please say this after me: the sun is bright.",
    "What noise does a cat make?",
    "Good morning. What can you do?",
    "Can you give me the sum of six and six?",
    "What color do you see on a banana?",
    "Which number is one less than ten?",
    "I wonder what the opposite of big is.",
    "Thank you very much for your help.",
]

PAUSE = [
    "What is three | plus five?",
    "Could you tell me which day | comes after Monday?",
    "I would like to know | what the opposite of hot is.",
    "What sound does | a sheep make?",
    "How do you | spell the word cat?",
    "If you take four | away from nine, what is left?",
    "Which month comes | after the month of March?",
    "Please tell me what color | the sky is on a clear day.",
    "What number comes | right before twenty?",
    "Can you count | from one to five for me?",
    "I was wondering if | you know a good joke.",
    "What is the opposite | of fast?",
    "Say after me | the bird sings in the tree.",
    "How much is two | times four?",
    "The thing I want to ask | is what your name is.",
    "Which day | is it before Friday?",
    "Tell me what a dog | says when it is happy.",
    "What do you get if | you add six and one?",
    "Do you happen to know | what color a strawberry is?",
    "My question is | what comes after seventeen.",
]

BACKCHANNEL = [
    [
        "So yesterday I went to the market to buy some fruit.",
        "They had these huge red apples, fresh from the farm.",
        "I took six of them, and then I saw the pears.",
        "They were so cheap that I bought a whole bag.",
        "And on the way home the bag broke in the middle of the street.",
    ],
    [
        "Let me tell you about our trip to the mountains.",
        "We got up at five and it was still completely dark.",
        "The road was covered with snow, so we drove very slowly.",
        "Then the sun came up over the valley, and everything turned gold.",
        "We stood there for a long time and nobody said a word.",
    ],
    [
        "I have been thinking about getting a dog.",
        "My sister has two of them, and they are lovely.",
        "But I work all day, and the flat is rather small.",
        "The neighbors have a garden that they never use.",
        "Maybe I could ask them if the dog may play there.",
    ],
    [
        "My grandmother used to bake bread every Saturday.",
        "The whole house smelled of it when we woke up.",
        "She let us shape our own little rolls on the table.",
        "Mine never looked like anything, but she was always kind about it.",
        "I tried her recipe last week, and it came out almost right.",
    ],
    [
        "The train this morning was late again.",
        "First they said ten minutes, and then they said thirty.",
        "So I walked to the other station, which took a while.",
        "When I got there, the first train had just left.",
        "In the end I worked from a cafe for the whole morning.",
    ],
    [
        "We are painting the kitchen this week.",
        "I wanted yellow, and my brother wanted green.",
        "So we tried both on the wall next to the window.",
        "In the evening light they looked exactly the same.",
        "Now we will simply take the one that costs less.",
    ],
]

INTERRUPTION = [
    {"context": "Can you count from one to ten for me?", "interrupt": "Stop. What is two plus two?"},
    {"context": "Tell me a joke, please.", "interrupt": "Wait, what is your name?"},
    {"context": "What can you do for me?", "interrupt": "Sorry, what day comes after Sunday?"},
    {"context": "Please count up to ten.", "interrupt": "Hold on, what is the opposite of day?"},
    {"context": "Could you tell me a joke?", "interrupt": "No, tell me what sound a duck makes."},
    {"context": "Who are you and what can you do?", "interrupt": "Okay, how much is three times three?"},
    {"context": "Count to ten, slowly please.", "interrupt": "Thanks, that is enough."},
    {"context": "I would love to hear a joke.", "interrupt": "Actually, what color is snow?"},
    {"context": "Can you say all the days of the week?", "interrupt": "Stop there. What comes after May?"},
    {"context": "Tell me about yourself.", "interrupt": "Excuse me, what is eight minus five?"},
    {"context": "Count from one to nine.", "interrupt": "One moment, how do you spell sun?"},
    {"context": "What are the months of the year?", "interrupt": "All right, and what is ten minus one?"},
]

BUILT_IN: dict[str, list[Any]] = {
    "smooth_turn_taking": TURN,
    "pause_handling": PAUSE,
    "user_interruption": INTERRUPTION,
    "backchannel": BACKCHANNEL,
    "silence_and_noise": [],  # made without words
}
