"""The table of questions about stories, with slots for facts, and of questions that stories do not answer.

To add a question, add a row; each fact that it names is one of `Stories.facts`. Read after this: `story_questions`.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A question and its answer, with slots: {hero} for a fact, {A_thing} for one with a capital letter."""

    kind: str
    ask: str
    clause: str  # the question inside another sentence
    answer: str
    form: str = ""  # another right answer
    told_with: str = ""  # a story is enough up to the section that first names this fact; empty: the whole story
    only_here: bool = False  # no story of another plot answers it


EVERY = [
    Row("who", "Who is the story about?", "who the story is about", "{hero}.", "", "hero"),
    Row("who", "Who is the hero of the story?", "who the hero of the story is", "{hero}.", "", "hero"),
    Row("who", "Whom did {hero} meet?", "whom {hero} met", "{friend}.", "", "friend"),
    Row("who", "Who is the friend of {hero}?", "who the friend of {hero} is", "{friend}.", "", "friend"),
    Row("where", "Where was {hero}?", "where {hero} was", "{Place_at}.", "{place}", "place"),
    Row("where", "Where is the story set?", "where the story is set", "{Place_at}.", "{place}", "place"),
    Row("where", "Where did {hero} meet {friend}?", "where {hero} met {friend}", "{Place_at}.", "{place}", "friend"),
    Row("what", "What was {friend} fond of?", "what {friend} was fond of", "Of {fond}.", "{fond}", "friend"),
    Row("what", "What color was the {thing}?", "what color the {thing} was", "It was {color}.", "{color}", "thing"),
    Row("why", "Why did it end like that?", "why it ended like that", "Because {why}.", "{why}"),
    Row("why", "Why did it end {well}?", "why it ended {well}", "Because {why}.", "{why}"),
    Row("ending", "How did the story end?", "how the story ended", "It ended {well}.", "{well}"),
    Row("ending", "How did it end for {hero}?", "how it ended for {hero}", "It ended {well}.", "{well}"),
    Row("ending", "Did it end well or badly?", "whether it ended well or badly", "It ended {well}.", "{well}"),
]
SOME = [  # told by some stories of every plot, and not by the others
    Row("what", "What did {hero} live in?", "what {hero} lived in", "{A_home}.", "", "hero"),
    Row(
        "what", "What did {hero} live near?", "what {hero} lived near", "The {landmark}.", "near the {landmark}", "hero"
    ),
    Row("what", "What was {friend} carrying?", "what {friend} was carrying", "{A_find}.", "", "friend"),
    Row(
        "what",
        "What was {friend} dressed like?",
        "what {friend} was dressed like",
        "Like {costume}.",
        "{costume}",
        "friend",
    ),
]
OF_PLOT = {  # plot, or plot and outcome
    "lost": [
        Row("what", "What did {hero} lose?", "what {hero} lost", "{A_thing}."),
        Row(
            "where", "Where did they look for the {thing}?", "where they looked for the {thing}", "{Spot_at}.", "{spot}"
        ),
    ],
    "broken": [
        Row("what", "What did {hero} break?", "what {hero} broke", "{A_thing}."),
        Row("who", "Whose {thing} broke?", "whose {thing} broke", "{friend}'s.", "{friend}"),
    ],
    "trade": [
        Row("what", "What did {hero} trade away?", "what {hero} traded away", "{A_thing}."),
        Row(
            "what", "What did {hero} get for the {thing}?", "what {hero} got for the {thing}", "Some {food}.", "{food}"
        ),
        Row("how many", "How many {food} were there in all?", "how many {food} there were in all", "{Total}."),
    ],
    "owner": [
        Row("what", "What did {hero} find?", "what {hero} found", "{A_thing}."),
        Row(
            "who",
            "Whom did the {thing} belong to?",
            "whom the {thing} belonged to",
            "The {owner}.",
            "{friend}'s {owner}",
        ),
    ],
    "market": [
        Row("what", "What did {hero} want to sell?", "what {hero} wanted to sell", "Some {food}.", "{food}", "", True),
        Row("what", "What did {hero} want to buy?", "what {hero} wanted to buy", "{A_thing}.", "", "", True),
        Row("how many", "How many {food} did {hero} want to sell?", "how many {food} {hero} wanted to sell", "{N}."),
        Row("how many", "How many {food} did {friend} buy?", "how many {food} {friend} bought", "{K}."),
        Row("how many", "How many {food} were left?", "how many {food} were left", "{Left}."),
    ],
    "share": [
        Row("what", "What did {hero} have to eat?", "what {hero} had to eat", "Some {food}.", "{food}"),
        Row("how many", "How many {food} did {hero} have?", "how many {food} {hero} had", "{N}."),
    ],
    "share good": [
        Row("how many", "How many {food} did {hero} keep?", "how many {food} {hero} kept", "{Left}."),
        Row("how many", "How many {food} did {friend} get?", "how many {food} {friend} got", "{K}."),
    ],
    "share bad": [
        Row("how many", "How many {food} did {hero} eat?", "how many {food} {hero} ate", "{K}."),
        Row("how many", "How many {food} did {hero} hide?", "how many {food} {hero} hid", "{Left}."),
    ],
    "garden": [
        Row("what", "What did {hero} plant?", "what {hero} planted", "Some {flower}.", "{flower}", "", True),
        Row("how many", "How many {flower} did {hero} plant?", "how many {flower} {hero} planted", "{N}."),
        Row("how many", "How many {flower} were left?", "how many {flower} were left", "{Left}."),
    ],
    "rescue": [
        Row("what", "What animal needed help?", "what animal needed help", "{A_animal}.", "", "", True),
        Row("what", "What did they use to help the {animal}?", "what they used to help the {animal}", "{A_tool}."),
    ],
    "race": [
        Row("where", "Where did they race to?", "where they raced to", "To the {goal}.", "{goal}", "", True),
        Row("who", "Who won the race?", "who won the race", "{winner}.", "", "", True),
        Row("how many", "How many steps was {friend} ahead?", "how many steps {friend} was ahead", "{N}."),
        Row("how many", "How many steps did {hero} gain?", "how many steps {hero} gained", "{K}."),
    ],
    "contest": [
        Row(
            "what", "What did {hero} make for the prize?", "what {hero} made for the prize", "{A_craft}.", "", "", True
        ),
        Row("who", "Who won the prize?", "who won the prize", "{winner}."),
        Row("how many", "How many hours did {hero} work?", "how many hours {hero} worked", "{N}."),
        Row("how many", "How many hours did {friend} work?", "how many hours {friend} worked", "{Left}."),
    ],
    "map": [
        Row(
            "where",
            "Where was the treasure on the map?",
            "where the treasure was on the map",
            "{Spot_at}.",
            "{spot}",
            "",
            True,
        ),
    ],
    "map good": [
        Row("how many", "How many {loot} did they find?", "how many {loot} they found", "{N}."),
        Row("how many", "How many {loot} did {friend} get?", "how many {loot} {friend} got", "{K}."),
        Row("how many", "How many {loot} did {hero} keep?", "how many {loot} {hero} kept", "{Left}."),
    ],
    "fog": [
        Row(
            "what",
            "What animal did they see in the fog?",
            "what animal they saw in the fog",
            "{A_animal}.",
            "",
            "",
            True,
        ),
    ],
    "tower": [
        Row("what", "What was the tower made of?", "what the tower was made of", "Of {block}.", "{block}", "", True),
        Row("how many", "How many {block} did they use in all?", "how many {block} they used in all", "{Total}."),
    ],
    "party": [
        Row(
            "what",
            "What was there to eat at the party?",
            "what there was to eat at the party",
            "Some {food}.",
            "{food}",
            "",
            True,
        ),
        Row("how many", "How many guests were there in all?", "how many guests there were in all", "{Total}."),
    ],
}
PLOTS = [plot for plot in OF_PLOT if " " not in plot]
NEVER = [  # told by no story
    ("How old was {hero}?", "how old {hero} was"),
    ("How tall was {friend}?", "how tall {friend} was"),
    ("What did {hero} have for breakfast?", "what {hero} had for breakfast"),
    ("When did {hero} go to bed?", "when {hero} went to bed"),
    ("Who is the teacher of {hero}?", "who the teacher of {hero} is"),
]
OF_OTHERS = [  # {stranger}, {absent_thing} and {absent_food} are not in the story
    ("Where was {stranger}?", "where {stranger} was"),
    ("Whom did {stranger} meet?", "whom {stranger} met"),
    ("What did {stranger} live in?", "what {stranger} lived in"),
    ("What did {stranger} live near?", "what {stranger} lived near"),
    ("What was {stranger} carrying?", "what {stranger} was carrying"),
    ("What color was the {absent_thing}?", "what color the {absent_thing} was"),
    ("How many {absent_food} were left?", "how many {absent_food} were left"),
    ("How many {absent_food} did {hero} have?", "how many {absent_food} {hero} had"),
]
