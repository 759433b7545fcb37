"""Questions about the tiny index, and the lengths that prompts and answers have there, as settings and as options."""

QUESTIONS = [
    "Why do otters hold hands?",
    "What makes a glacier move?",
    "How is a violin tuned?",
    "Why does a volcano erupt?",
    "What makes bread rise?",
    "How do bees tell where flowers are?",
    "Why does iron rust?",
    "What flies without a sound?",
]
LENGTHS = {"max_tokens": 8, "max_doc_tokens": 64, "max_question_tokens": 64}
OPTIONS = [word for name, value in LENGTHS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
