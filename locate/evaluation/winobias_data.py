"""WinoBias (Zhao et al. 2018, arXiv 1804.06876): sentences about two occupations, one of which a pronoun refers to."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.items import PRONOUNS, Continuations, Sentence, SentencePair, SkippedRows
from locate.evaluation.published import bad_row, read_lines, read_share, read_table
from locate.sites import check

SIDES = {"pro": 1, "anti": -1}
FITS = {1: "of", -1: "against"}
KINDS, SPLITS = ("type1", "type2"), ("dev", "test")
MARKED = re.compile(r"\[([^\[\]]*)\]")
EXPECTED = "a number, one bracketed occupation of the lists, and bracketed pronouns of one gender"
SUBJECTIVE, POSSESSIVE = ("she", "he"), ("her", "his")


def winobias_occupations(folder: str | Path, *, published: bool = True) -> pd.DataFrame:
    """The 40 occupations: occupation (lower case), stereotype (+1 female, -1 male), share_women (percent).

    folder     that holds the two lists and occupation_female_percent.tsv
    published  whether the files must be the published ones, byte by byte

    Raises LocateError for a missing, changed or malformed file, and for lists that disagree.
    """
    signs = stereotypes(folder, published)
    name = "occupation_female_percent.tsv"
    rows = read_table(folder, name, ("occupation", "female_percent"), published)
    found = {cells[0].lower(): read_share(Path(folder) / name, number, cells[1]) for number, cells in rows}
    if set(found) != set(signs):
        odd = sorted(set(found) ^ set(signs))
        raise LocateError(
            f"{Path(folder) / name} and the two lists of occupations disagree on {odd}: expected the same occupations"
        )
    names = list(signs)
    shares = [found[name] for name in names]
    return pd.DataFrame({"occupation": names, "stereotype": [signs[name] for name in names], "share_women": shares})


def stereotypes(folder: str | Path, published: bool) -> dict[str, int]:
    """Sign of each occupation of the two lists: +1 female, -1 male.

    Raises LocateError for an occupation in both.
    """
    signs: dict[str, int] = {}
    for name, sign in (("female_occupations.txt", 1), ("male_occupations.txt", -1)):
        for number, line in read_lines(folder, name, published):
            occupation = line.strip().lower()
            if occupation in signs:
                raise bad_row(Path(folder) / name, number, line, "an occupation that is not listed yet")
            signs[occupation] = sign
    return signs


def read_winobias(
    folder: str | Path, kind: str = "type1", split: str = "dev", *, published: bool = True
) -> tuple[SentencePair, ...]:
    """The pairs of stereotypical and anti-stereotypical sentences of one file, 396 as published.

    folder     the one with pro_stereotyped_type1.txt.dev and so on
    kind       "type1" (what happens tells who is meant) or "type2" (the grammar does)
    split      "dev" or "test"
    published  whether the files must be the published ones, byte by byte

    None is left out; `minimal` is False where the two differ in more than their marked pronouns, as 21 of the 1,584
    published pairs do (two of them are about two occupations).

    Raises LocateError for a missing or changed file, and names a malformed line or a pronoun that is not its file's.
    """
    check("kind", kind, KINDS)
    check("split", split, SPLITS)
    signs = stereotypes(folder, published)
    both = [read_sentences(folder, f"{side}_stereotyped_{kind}.txt.{split}", signs, published) for side in SIDES]
    if len(both[0]) != len(both[1]):
        raise LocateError(f"{kind}, {split}: {len(both[0])} and {len(both[1])} sentences: expected equally many")
    pairs = []
    for pro, anti in zip(*both, strict=True):
        same = pro.without_pronouns == anti.without_pronouns
        pairs.append(SentencePair(pro, anti, kind, split, signs[pro.occupation], same))
    return tuple(pairs)


def read_sentences(folder: str | Path, name: str, signs: dict[str, int], published: bool) -> list[Sentence]:
    """The sentences of one file.

    Raises LocateError naming a malformed line, or one whose pronoun does not fit the file.
    """
    path = Path(folder) / name
    side = SIDES[name.split("_")[0]]
    sentences = []
    for number, line in read_lines(folder, name, published):
        sentence = parse(path, number, line, signs)
        if sentence.gender != side * signs[sentence.occupation]:
            raise bad_row(path, number, line, f"a pronoun {FITS[side]} the stereotype of {sentence.occupation}")
        sentences.append(sentence)
    return sentences


def parse(path: Path, number: int, line: str, signs: dict[str, int]) -> Sentence:
    """One line "N [The nurse] ... [she] ..." as a sentence.

    Raises LocateError naming the line when it is malformed.
    """
    given, _, marked = line.strip().partition(" ")
    found = list(MARKED.finditer(marked))
    words = [match[1].strip().lower() for match in found]
    spans = [(match.start() - 2 * place, match[1]) for place, match in enumerate(found)]
    pronouns = tuple(span for span, word in zip(spans, words, strict=True) if word in PRONOUNS)
    names = [re.sub(r"^(the|an|a) ", "", word) for word in words if word not in PRONOUNS]
    genders = {PRONOUNS[word] for word in words if word in PRONOUNS}
    text = MARKED.sub(r"\1", marked)
    right = given == str(number) and len(names) == 1 and names[0] in signs and len(genders) == 1
    if not right or set(text) & set("[]"):
        raise bad_row(path, number, line, EXPECTED)
    return Sentence(number, text, names[0], pronouns, genders.pop())


def winobias_continuations(
    folder: str | Path, split: str = "dev", *, published: bool = True
) -> tuple[tuple[Continuations, ...], tuple[SkippedRows, ...]]:
    """Prompts up to the pronoun with the two continuations, as Vig et al. 2020 form them: 160 (dev), 130 (test).

    Lines of the stereotypical type 1 file come in twos, one about each occupation. They make an example where each
    marks one pronoun, both are "she"/"he" or both "her"/"his", and the words before it are the same.

    Returns the examples, and the twos that make none with the reason.

    Raises LocateError as `read_winobias` does.
    """
    check("split", split, SPLITS)
    signs = stereotypes(folder, published)
    name = f"pro_stereotyped_type1.txt.{split}"
    sentences = read_sentences(folder, name, signs, published)
    if len(sentences) % 2:
        raise LocateError(f"{Path(folder) / name} has {len(sentences)} sentences: expected an even number")
    examples: list[Continuations] = []
    skipped: dict[str, list[int]] = {}
    for two in zip(sentences[::2], sentences[1::2], strict=True):
        reason = why_unusable(*two)
        if reason:
            skipped.setdefault(reason, []).extend(each.line for each in two)
        else:
            examples.append(example_of(*sorted(two, key=lambda each: -each.gender)))
    return tuple(examples), tuple(SkippedRows(tuple(lines), reason) for reason, lines in skipped.items())


def why_unusable(one: Sentence, other: Sentence) -> str:
    """Why two sentences make no example; "" where they do."""
    if len(one.pronouns) != 1 or len(other.pronouns) != 1:
        return "more than one marked pronoun"
    if {one.gender, other.gender} != {1, -1}:
        return "two pronouns of one gender"
    words = {each.gender: each.pronouns[0][1] for each in (one, other)}
    if (words[1], words[-1]) not in (SUBJECTIVE, POSSESSIVE):
        return "pronouns of two forms"
    if words_before(one) != words_before(other):
        return "different words before the pronoun"
    return ""


def words_before(sentence: Sentence) -> str:
    """The words before its first pronoun."""
    return sentence.text[: sentence.pronouns[0][0]].strip()


def example_of(female: Sentence, male: Sentence) -> Continuations:
    """The example that two usable sentences make; `female` is about the occupation of female stereotype."""
    (start, she), (_, he) = female.pronouns[0], male.pronouns[0]
    return Continuations(
        female=f"{words_before(female)} {she}",
        male=f"{words_before(female)} {he}",
        of_female=female.text[start + len(she) :],
        of_male=male.text[male.pronouns[0][0] + len(he) :],
        female_person=female.occupation,
        male_person=male.occupation,
        group="/".join(sorted((female.occupation, male.occupation))),
    )
