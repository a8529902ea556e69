"""Both languages say the same things, and nothing a visitor types becomes markup."""

from __future__ import annotations

import re
import string

import pytest

from mhmoe.ui import language
from mhmoe.ui.chapters import CHAPTERS
from mhmoe.ui.language import Html

LANGUAGES = list(language.LANGUAGES)
KEYS = sorted(language.table("en"))
#: design vocabulary: one word each, in both languages.
VOCABULARY = {
    "token": ("token", "词元"),
    "sub-token": ("sub-token", "子词元"),
    "head": ("head", "头"),
    "expert": ("expert", "专家"),
    "router": ("router", "路由器"),
    "score": ("score", "得分"),
    "probability": ("probability", "概率"),
    "gate": ("gate", "门控值"),
    "demand": ("demand", "需求"),
    "load": ("load", "负载"),
    "capacity": ("capacity", "容量"),
    "dropped": ("dropped", "丢弃"),
    "dispatch": ("dispatch", "分发"),
    "combine": ("combine", "合并"),
    "importance": ("importance", "重要性"),
    "ffn": ("FFN", "前馈网络"),
    "layer": ("layer", "层"),
    "first-choice": ("first choice", "首选专家"),
    "capacity-factor": ("capacity factor", "容量因子"),
    "residual": ("residual", "残差"),
    "cv": ("coefficient of variation (CV)", "变异系数（CV）"),
    "bits-per-byte": ("bits per byte", "每字节比特数"),
}


def placeholders(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def terms(text: str) -> list[str]:
    return sorted(set(re.findall(r"\[\[([a-z-]+)", text)))


def test_both_languages_have_the_same_keys():
    assert set(language.table("en")) == set(language.table("zh"))


@pytest.mark.parametrize("key", KEYS)
def test_both_languages_have_the_same_placeholders_and_terms(key):
    english, chinese = language.table("en")[key], language.table("zh")[key]
    assert placeholders(english) == placeholders(chinese)
    assert terms(english) == terms(chinese)
    assert english.strip()
    assert chinese.strip()


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("key", KEYS)
def test_every_text_renders(lang, key):
    values = {name: 7 for name in placeholders(language.table(lang)[key])}
    assert "[[" not in language.rich(lang, key, **values)
    assert language.lookup(lang, key, **values)


def test_a_text_with_glossary_words_is_never_shown_as_plain_text():
    root = language.ASSETS.parent
    sources = [*(root / "mhmoe" / "ui").glob("*.py"), *(root / "pages").glob("*.py")]
    plain = {
        key
        for path in sources
        for key in re.findall(r'(?<!\w)t\(\s*"([\w.-]+)"', path.read_text("utf-8"))
    }
    assert {"start.box", "problem.blank"} <= plain
    assert {key for key in plain if terms(language.table("en")[key])} == set()


def test_every_chapter_has_a_title():
    assert {f"chapters.{chapter.slug}" for chapter in CHAPTERS} <= set(KEYS)


def test_the_glossary_is_the_vocabulary():
    words = {
        term: (entry["en"]["word"], entry["zh"]["word"])
        for term, entry in language.glossary().items()
    }
    assert words == VOCABULARY


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("term", sorted(VOCABULARY))
def test_every_definition_is_one_sentence(lang, term):
    definition = language.glossary()[term][lang]["definition"]
    end = {"en": ".", "zh": "。"}[lang]
    assert definition.endswith(end)
    assert definition.count(end) == 1


def test_values_are_escaped_and_never_markup(monkeypatch):
    monkeypatch.setattr(language, "table", lambda lang: {"k": "**{word}** and [[token|tokens]]"})
    out = language.rich("en", "k", word="<i>[[expert]] {x} `c`</i>")
    assert out.startswith("<strong>&lt;i&gt;[[expert]] {x} `c`&lt;/i&gt;</strong> and ")
    assert out.count("he-term") == 1
    assert language.to_html(Html("<b>")) == "<b>"
    assert language.to_html("<b>") == "&lt;b&gt;"


@pytest.mark.parametrize(
    ("locale", "lang"),
    [("zh-CN", "zh"), ("zh_TW", "zh"), ("ZH", "zh"), ("en-GB", "en"), ("fr", "en"), (None, "en")],
)
def test_language_of_a_locale(locale, lang):
    assert language.from_locale(locale) == lang
