"""English phrases. No digits, no superlatives, nothing that a product might not keep: figures are the payload's."""

from __future__ import annotations

from routing.mock.english_tasks import PHRASES as TASK_PHRASES
from routing.mock.pen import Book, compile_rules

__all__ = ["ENGLISH"]

_SCENES = compile_rules(
    (r"camp|캠핑|백패킹", "a day at the campsite"),
    (r"commut|subway|출퇴근|지하철", "the daily commute"),
    (r"programmer|developer|remote|개발자|재택", "a long day at the desk"),
    (r"office|worker|professional|직장인|회사원", "a busy weekday"),
    (r"student|exam|학생|수험", "an evening of study"),
    (r"parent|mother|father|\bmom|\bdad|부모|육아|엄마|아빠", "a day with the children"),
    (r"\bpets?\b|dog owner|cat owner|반려|집사", "a day with a pet"),
    (r"runner|gym|workout|athlete|hik|운동|헬스|러닝|등산", "a training day"),
    (r"travel|여행|출장", "a day on the road"),
    (r"gift|선물", "the day you choose a gift"),
)

_FEATURES = compile_rules(
    (
        r"단백|protein",
        "protein comes first",
        "for the days when meals alone leave a gap, and protein is what you look for.",
    ),
    (
        r"sugar|저당|무당|제로",
        "easier on days when sugar is on your mind",
        "a welcome line for anyone who reads the label before the first bite.",
    ),
    (
        r"easy|quick|instant|shake|간편|쉐이크|원터치",
        "less to prepare, more of the day left",
        "what takes effort is soon given up, so the easy way was part of the choice.",
    ),
    (
        r"noise|\bANC\b|소음\s?차단|노이즈",
        "closer to what you were listening to",
        "when the room is loud, it helps you stay with what you were listening to.",
    ),
    (
        r"silent|quiet|저소음|무소음",
        "quiet enough to share a room",
        "the person at the next desk has a day of their own.",
    ),
    (
        r"switch|스위치|\d축",
        "a feel chosen for the fingertips",
        "you press it countless times a day, so the feel was chosen first.",
    ),
    (
        r"layout|compact|배열|레이아웃|portable|mini|휴대|컴팩트",
        "room to spare around it",
        "how far your hands travel and how much space is left were weighed together.",
    ),
    (
        r"hot-?swap|modular|replaceable|핫\s?스왑|교체",
        "made to be changed, part by part",
        "for people who would sooner change one part than the whole.",
    ),
    (
        r"bluetooth|wireless|multi-?device|wi-?fi|블루투스|무선|페어링",
        "no cable to tidy away",
        "one thing less to untangle before you carry on with your work.",
    ),
    (
        r"battery|charge|hours?\b|충전|배터리|연속",
        "fewer thoughts about charging",
        "the less you look for a charger, the more you simply use it.",
    ),
    (
        r"weight|lightweight|무게|경량|가벼",
        "considered down to its weight",
        "with something you carry every day, the figure is worth a look.",
    ),
    (
        r"water|IPX?\d|splash|방수|방진",
        "calm about a little water",
        "made with rain and sweat in mind; the stated rating says how far that goes.",
    ),
    (
        r"fragrance|unscented|무향",
        "easy on days when scent is too much",
        "leaving something out can matter as much as putting it in.",
    ),
    (
        r"vegan|비건",
        "for people with a clear standard",
        "the line to check first if you also care how things are made.",
    ),
    (
        r"moistur|hydrat|보습|수분",
        "for the days when skin feels dry",
        "made with the comfort of putting it on in mind.",
    ),
    (
        r"organic|recycled|local|유기농|국산|친환경",
        "good to know where it comes from",
        "choosing by origin is a small standard to keep every day.",
    ),
    (
        r"extract|contains|ingredient|추출물|함유|원료|성분",
        "what is inside, by name and figure",
        "see what it holds and how much of it before you decide.",
    ),
    (
        r"certif|patent|tested|인증|특허|시험",
        "a standard in place of big words",
        "for people who would sooner check than be persuaded.",
    ),
    (
        r"capacity|litre|liter|용량",
        "a clear idea of how much it holds",
        "once you know how much it holds, you can picture where it fits.",
    ),
    (
        r"cotton|wool|linen|leather|wood|steel|silicone|titanium|alumini?um|소재|원단|가죽|원목",
        "chosen by touch, material first",
        "with something you touch often, the material makes itself felt.",
    ),
    (
        r"wash|clean|세척|세탁|관리",
        "thought through to the tidying up",
        "the minutes after use count as well.",
    ),
    (
        r"warranty|보증|무상",
        "looked after once it is yours",
        "know beforehand what you may need afterwards.",
    ),
    (
        r"design|colou?r|finish|디자인|색상|마감",
        "easy on the eye",
        "it stays in view all day, so its looks were weighed like its use.",
    ),
    (
        r"flavou?r|chocolate|vanilla|맛|초코",
        "a taste you come back to",
        "a habit lasts when it tastes right.",
    ),
)

_SCENE_BY_DOMAIN = {
    "audio": "time on the move",
    "computer": "the hours at the desk",
    "pet": "a day with a pet",
    "kids": "a day with the children",
    "supplement": "a busy day",
    "beauty": "a moment at the mirror",
    "drink": "a short break",
    "food": "the everyday table",
    "outdoor": "a day outdoors",
    "fashion": "an ordinary day's outfit",
    "kitchen": "the everyday kitchen",
    "appliance": "a day around the house",
    "living": "a quiet hour at home",
    "stationery": "an hour with pen and paper",
    "general": "everyday life",
}

# The thought that a page's story begins with.
_OPENING = {
    "audio": "Even in a crowd there are sounds you want to yourself.",
    "computer": "Your hands spend more of the day at the desk than you would think.",
    "pet": "You look twice at what you choose for someone who cannot tell you.",
    "kids": "What you put beside a child takes longer to choose.",
    "supplement": "On busy days, the things you meant to take are the first to be forgotten.",
    "beauty": "When the season turns, you look again at what you put on your skin.",
    "drink": "Often it is a short break with a cup that turns the day around.",
    "food": "What shall we eat is a question that comes back every day.",
    "outdoor": "On days outdoors it helps to know exactly what is in the bag.",
    "fashion": "In every wardrobe there are a few things you always reach for.",
    "kitchen": "In the kitchen, the hand goes to what it knows.",
    "appliance": "Housework comes back a little at a time, and often.",
    "living": "The things you touch first at home make the time to rest.",
    "stationery": "Writing something down is a slow way of thinking.",
    "general": "The things you use every day deserve a second thought.",
}

# The first thought of the hero section.
_HOOK = {
    "audio": "There are hours when you want what you hear to be yours alone.",
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
    "general": "When the things you use often are easy to use, the day feels lighter.",
}

# What is safe to advise without knowing the product: no doses, times or temperatures.
_USAGE = {
    "audio": (
        "Find the fit first, then start with music you know well.",
        "Connect the device you use most before anything else",
        "Listen once in a quiet place and once in a busy one",
        "Put it back in its place when you are done",
    ),
    "computer": (
        "Put it where you usually work and settle your hands first.",
        "Connect the device you use most before anything else",
        "Find the height and distance that suit your wrists",
        "Dust it off before dust collects",
    ),
    "supplement": (
        "Choose a moment of the day that you will not forget.",
        "Keep it where you can see it",
        "Follow the amount and directions on the label",
        "Once opened, store it as the label says",
    ),
    "beauty": (
        "After cleansing, spread a suitable amount and see how your skin takes it.",
        "Try it on a small area first",
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
        "Start with the moment in which you would use it most.",
        "Keep it within reach",
        "Read the directions before the first use",
        "Look after it as the label says",
    ),
}

_VALUES = {
    "supplement": ("consistency", "clear labels", "an easier day"),
    "beauty": ("comfort", "honest labels", "steady care"),
    "audio": ("focus", "comfort", "things that last"),
    "computer": ("tools that fit the hand", "focus", "things that last"),
    "food": ("honest labels", "an easy meal", "sharing"),
    "general": ("clear information", "ease in daily life", "choices that last"),
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
    | {f"scene.{domain}": (scene,) for domain, scene in _SCENE_BY_DOMAIN.items()}
    | {f"opening.{domain}": (opening,) for domain, opening in _OPENING.items()}
    | {f"hook.{domain}": (hook,) for domain, hook in _HOOK.items()}
    | {f"usage.{domain}": usage for domain, usage in _USAGE.items()}
    | {f"values.{domain}": values for domain, values in _VALUES.items()}
    | {f"tone.{domain}": (tone,) for domain, tone in _TONE.items()},
    features=_FEATURES,
    scenes=_SCENES,
)
