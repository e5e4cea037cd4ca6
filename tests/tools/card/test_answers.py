"""Tests of answers.yaml: its template, its forms, and mistakes in it."""

import pytest
import yaml

from pipelines.errors import UserError
from tools.card.answers import Answers, groups, label, load_answers, template


def written(tmp_path, text):
    path = tmp_path / "answers.yaml"
    path.write_text(text)
    return load_answers(str(path))[0]


def test_a_template_is_written_once_with_every_question_open(tmp_path):
    path = tmp_path / "answers.yaml"
    answers, is_new = load_answers(str(path))
    assert is_new
    assert answers.unanswered == list(Answers.model_fields)
    assert list(yaml.safe_load(template())) == list(Answers.model_fields)
    again, is_new = load_answers(str(path))
    assert not is_new
    assert again == answers
    assert max(map(len, template().splitlines())) <= 120


def test_the_groups_hold_every_question_once():
    assert [name for names in groups().values() for name in names] == list(Answers.model_fields)


def test_labels_are_words():
    assert [label(name) for name in ("url", "license", "eu_model", "consent_basis")] == [
        "URL",
        "Licence",
        "EU: model",
        "Consent basis",
    ]


def test_answers_are_texts_or_have_a_name_and_a_date(tmp_path):
    answers = written(
        tmp_path,
        "funding: no\npublished: 2026-11-28\ncreator: 12\n"
        "motivation:\n  answer: |\n    Two\n    lines.\n  name: A. Person\n  date: 2026-11-27\n",
    )
    assert answers.to_record() == {
        "creator": {"answer": "12"},
        "funding": {"answer": "no"},
        "published": {"answer": "2026-11-28"},
        "motivation": {"answer": "Two\nlines.\n", "name": "A. Person", "date": "2026-11-27"},
    }
    assert answers.text("motivation") == "Two\nlines."


def test_controls_in_answers_are_escapes_and_lines_stay(tmp_path):
    found = written(
        tmp_path, 'contact: "a\\u202eb\\0c\\a\\n\\td"\nfunding: {answer: x, name: "\\u2066n", date: "\\x1b1"}\n'
    )
    assert found.contact.answer == "a\\u202eb\\x00c\\x07\n d"
    assert found.to_record()["funding"] == {"answer": "x", "name": "\\u2066n", "date": "\\x1b1"}


def test_a_file_that_was_named_must_be_there(tmp_path):
    path = tmp_path / "anwsers.yml"
    with pytest.raises(UserError, match=r"--answers .*/anwsers\.yml: no such file\. Without --answers, a template"):
        load_answers(str(path), is_default=False)
    assert not path.exists()


def test_spaces_alone_answer_nothing(tmp_path):
    assert "funding" in written(tmp_path, "funding: '  '\n").unanswered
    assert "funding" in written(tmp_path, "funding: {name: A. Person}\n").unanswered


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nmotivaton: x\n", r"answers.yaml:2: motivaton: unknown key. Did you mean 'motivation'\?"),
        ("funding:\n  answr: x\n", r"answers.yaml:2: funding.answr: unknown key. Did you mean 'answer'\?"),
        ("funding: a\nfunding: b\n", "answers.yaml:2: not valid YAML: the key 'funding' appears twice"),
        ("funding: [\n", "not valid YAML"),
        ("creator: [1, 2]\n", "answers.yaml:1: creator.answer: Input should be a valid string"),
        ("- a\n", "must be a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, expected):
    with pytest.raises(UserError, match=expected):
        written(tmp_path, text)
