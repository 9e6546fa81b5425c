"""English phrases. No digits, no superlatives, nothing that a product might not keep: figures are the payload's."""

from __future__ import annotations

from routing.mock.english_features import FEATURES, SCENES
from routing.mock.english_tasks import PHRASES as TASK_PHRASES
from routing.mock.pen import Book, by_domain

__all__ = ["ENGLISH"]

_SCENE_BY_DOMAIN = {
    "audio": "time on the move",
    "app": "a day with much to do",
    "computer": "the hours at the desk",
    "pet": "a day with a pet",
    "kids": "a day with the children",
    "supplement": "a busy day",
    "beauty": "a moment at the mirror",
    "drink": "a short break",
    "food": "the everyday table",
    "outdoor": "a day outdoors",
    "fashion": "an ordinary day's outfit",
    "accessory": "a day out of the house",
    "furniture": "the place where you spend your day",
    "kitchen": "the everyday kitchen",
    "appliance": "a day around the house",
    "living": "a quiet hour at home",
    "stationery": "an hour with pen and paper",
    "general": "everyday life",
}

# The thought that a page's story begins with.
_OPENING = {
    "audio": "Even in a crowd there are sounds you want to yourself.",
    "app": "Ideas and errands alike need a place where you find them again.",
    "furniture": "Look back on a day, and most of it was spent in very few places.",
    "accessory": "There are things your hand goes to last before you leave the house.",
    "computer": "Your hands spend more of the day at the desk than you would think.",
    "pet": "You look twice at what you choose for someone who cannot tell you.",
    "kids": "What you put beside a child takes longer to choose.",
    "supplement": "On busy days, the things you meant to take are the first to be forgotten.",
    "beauty": "When the season turns, you look again at what you use.",
    "drink": "Often it is a short break with a cup that turns the day around.",
    "food": "What shall we eat is a question that comes back every day.",
    "outdoor": "On days outdoors it helps to know exactly what is in the bag.",
    "fashion": "In every wardrobe there are a few things you always reach for.",
    "kitchen": "In the kitchen, the hand goes to what it knows.",
    "appliance": "Housework comes back a little at a time, and often.",
    "living": "The things you touch first at home make the time to rest.",
    "stationery": "Writing something down is a slow way of thinking.",
    "general": "A good choice begins with knowing what you need.",
}

# The first thought of the hero section.
_HOOK = {
    "audio": "There are hours when you want what you hear to be yours alone.",
    "app": "With a tool you know well, the day falls into order.",
    "furniture": "The longer you stay in a place, the more it matters how you choose for it.",
    "accessory": "What leaves the house with you every day is judged by use and looks alike.",
    "computer": "When a tool fits the hand, work finds its rhythm.",
    "pet": "They are family, so nothing they eat or use is chosen lightly.",
    "kids": "Whatever is part of a child's day should be clear about what it is.",
    "supplement": "Looking after yourself is less a grand plan than a habit you can keep.",
    "beauty": "On days when skin feels touchy, simple and clear is what you want.",
    "drink": "A moment to breathe, and what is in the cup sets its mood.",
    "food": "The more often you eat something, the better you want to know what is in it.",
    "outdoor": "Outdoors, one small thing well prepared can change the day.",
    "fashion": "Getting dressed begins with what feels right on the skin.",
    "kitchen": "Cooking begins before the stove, with what you take into your hand.",
    "appliance": "When housework gets a little lighter, evenings get a little longer.",
    "living": "A place to rest deserves things that stay pleasant to look at.",
    "stationery": "While the hand writes, thoughts find their own pace.",
    "general": "With the right choice made, the day feels a little lighter.",
}

# What is safe to advise without knowing the product: no doses, times or temperatures.
_USAGE = {
    "audio": (
        "Start with sounds you know well.",
        "Connect the device you use most before anything else",
        "Listen once in a quiet place and once in a busy one",
        "Put it back in its place when you are done",
    ),
    "computer": (
        "Put it where you usually work and tidy up around it first.",
        "Connect the device you use most before anything else",
        "Find the height and distance that suit you",
        "Wipe it now and then with a dry cloth",
    ),
    "supplement": (
        "Choose a moment of the day that you will not forget.",
        "Keep it where you can see it",
        "Follow the amount and directions on the label",
        "Once opened, store it as the label says",
    ),
    "beauty": (
        "Read the directions on the package, and start with a suitable amount.",
        "Begin with a little and see how it suits you",
        "Add one step at a time to your usual order",
        "Read the cautions on the package",
    ),
    "drink": (
        "Prepare a cup when there is no need to hurry.",
        "Take out the cup you like beforehand",
        "Plain the first time, your own way the next",
        "Store it as the label says",
    ),
    "food": (
        "Begin by adding it to a meal you already know.",
        "Check ingredients and allergens before eating",
        "Serve it to the taste of the people at the table",
        "Store what is left as the label says",
    ),
    "fashion": (
        "Lay it beside the clothes you wear most and see how they get on.",
        "Compare the measurements with something you own",
        "Care for it as the label says",
        "Layer it as the season changes",
    ),
    "pet": (
        "Give your pet time to get used to it, and start slowly.",
        "Stay close the first time",
        "Consider its habits and health beforehand",
        "Read the cautions on the package",
    ),
    "kids": (
        "See first whether it suits the child's age and habits.",
        "Use it together with an adult",
        "Check the stated age and cautions",
        "Clean it and put it away afterwards",
    ),
    "general": (
        "Start with the moment in which you need it most.",
        "Read the directions before you begin",
        "Let it find its place in your day",
        "Ask the seller about anything that is unclear",
    ),
    "app": (
        "Begin by moving one thing that you do often.",
        "Start on the device you use most",
        "Set notifications and settings your own way",
        "Widen what you use it for, little by little",
    ),
    "accessory": (
        "Try it with what you wear most.",
        "Compare the measurements with something you own",
        "Take it along on a familiar route first",
        "Care for it as the label says",
    ),
    "furniture": (
        "Measure the place where it will stand first.",
        "Check the way in as well as the place",
        "Set it up as directed and see that it stands firmly",
        "Find the position that suits the person who uses it",
    ),
    "living": (
        "Choose its place and see how it looks there.",
        "Check the size of the place",
        "Read the directions before the first use",
        "Look after it as the label says",
    ),
    "kitchen": (
        "Wash it as directed before the first use.",
        "Keep it near where you use it",
        "Clean it as the label says",
        "Dry it before you put it away",
    ),
    "appliance": (
        "Decide on its place and the socket first.",
        "Read the safety notes before anything else",
        "Learn the functions you will use most",
        "Look after it at the stated intervals",
    ),
    "outdoor": (
        "Try it once at home before you set out.",
        "Check that everything is there before you leave",
        "Read directions and cautions beforehand",
        "Wipe off dust and water before you store it",
    ),
    "stationery": (
        "Begin with one line about today.",
        "Keep it within reach",
        "Choose a time of day for it",
        "Use it together with what you know",
    ),
}

_VALUES = {
    "supplement": ("consistency", "clear labels", "an easier day"),
    "beauty": ("comfort", "honest labels", "steady care"),
    "audio": ("focus", "comfort", "things that last"),
    "computer": ("tools that fit the hand", "focus", "things that last"),
    "food": ("honest labels", "an easy meal", "sharing"),
    "general": ("clear information", "ease in daily life", "careful choices"),
}

_TONE = {
    "supplement": "Plain and encouraging. Short sentences, and no inflated promises.",
    "beauty": "Soft and calm. Says what is in it and how it is used, and never sounds like a cure.",
    "audio": "Low and plain. Figures as they are, exclamation marks kept in the drawer.",
    "kids": "Warm and calm. Answers what a parent would ask first.",
    "general": "Friendly and plain. Facts first, and no exaggeration.",
}

ENGLISH = Book(
    language="en",
    phrases=dict(TASK_PHRASES)
    | by_domain(scene=_SCENE_BY_DOMAIN, opening=_OPENING, hook=_HOOK, usage=_USAGE, values=_VALUES, tone=_TONE),
    features=FEATURES,
    scenes=SCENES,
)
