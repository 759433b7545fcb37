"""What evaluations of a server ask when no questions are given."""

from eval.props.index_options import QUESTIONS
from eval.props.question_set import read_questions


def test_the_questions_that_are_asked_by_default_are_there():
    assert len(read_questions(QUESTIONS)) > 50
