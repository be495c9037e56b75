"""The published files by name, their sha256 and number of rows; readers that compare a file with the published one."""

from __future__ import annotations

from pathlib import Path

from locate.errors import LocateError
from locate.files import hash_of_files

PUBLISHED = {
    # https://github.com/uclanlp/corefBias, commit 0bce984dd081bbc10b0622f326727a024c607895
    "pro_stereotyped_type1.txt.dev": ("dd55a0d220fe4c0ceb63dd4648223fb4fe1a58d5ad95c116a002ad24b0e292a5", 396),
    "pro_stereotyped_type1.txt.test": ("db7838907238a758eeb5779e48f38c013b892910d6fe864456c59f04245c6689", 396),
    "pro_stereotyped_type2.txt.dev": ("8f0250de723cea9328e3eaf7169e07936f01aa5909ce7aa580db66eb803f4e86", 396),
    "pro_stereotyped_type2.txt.test": ("ea1c1fd94fa612e3cc44d7fa3cc4cb76021bb63fdf94f9826f430051e9052438", 396),
    "anti_stereotyped_type1.txt.dev": ("a4e0ebae344e78b56f657a42e8ae684b9db7747d177c5e7149c0907ebb7f3bf6", 396),
    "anti_stereotyped_type1.txt.test": ("331db5bd74bfefebf146a60b67645152a4a1991570d2a56f57154103ac361dd2", 396),
    "anti_stereotyped_type2.txt.dev": ("763ad829ad724f9a85ead689ba8ca69072020cb1238def6210f0fc6a47b97e59", 396),
    "anti_stereotyped_type2.txt.test": ("336571ac1ea8c06cd2aba8e5dd2bd98e00acc0c48da3e4ec5ec7e54eb2633a8f", 396),
    "female_occupations.txt": ("693bff12286c2c1d46c7d4d45a44a631574710c30b39c1a3001bb7bdebb44ed8", 20),
    "male_occupations.txt": ("6b82d88847b69d56d207a0c396e9830b031890de585e916e6b4e9bc50672657e", 20),
    # Table 1 of Zhao et al. 2018, as tabulated by Vig et al. 2020
    "occupation_female_percent.tsv": ("be725af5cc23ae69389b2e0dd430f6750612499e53880552d81e40ff4627af0c", 40),
    # https://github.com/rudinger/winogender-schemas, commit 1c7f8b481ad8a234b41e9f76a424d6e856e13f7f
    "all_sentences.tsv": ("bd69da16bf228cb8df63fd0843aec2d8b5c36a7f21bf8c7b168bcc83932556c8", 720),
    "occupations-stats.tsv": ("3f7f37c16381a70571356982ea7fe613ac700ad04a6d3b19b9f2be18248df567", 60),
    "templates.tsv": ("496f2e2dc77296bcebcdd8865a8dc5715ce22b772de9abb5f531d5b3114c48a0", 120),
    # https://github.com/sebastianGehrmann/CausalMediationAnalysis, commit 6e4bdd13695f53b057729b18b4ad4bbdf1cb1309
    "winogender_templates.tsv": ("496f2e2dc77296bcebcdd8865a8dc5715ce22b772de9abb5f531d5b3114c48a0", 120),
    "winogender_templates_structurefilter.tsv": (
        "b2c2580187e411e48d262bb9f5d0a7141973adba6e046875bc0bec0d2030f456",
        88,
    ),
    "prompt_templates.txt": ("b77f0bf0386914085bc3d7d8d98181b108d7a3f8b55d753248652a5608147974", 17),
    "professions.json": ("32cc82c7761e7cfb14e37e06dc1aa9f758bc8441f79ca7288996d3fc7c24639a", 320),
    # https://github.com/nyu-mll/crows-pairs, commit 8aaac11c485473159ec9328a65253a5be9a479dc
    "crows_pairs_anonymized.csv": ("dfb36986ce0502abbaf7055b9176da3d08d48e07df1251991b5dfbcbceab9d0c", 1508),
    # https://github.com/google-research-datasets/gap-coreference, commit 83135f26025cdd705c04f77e940d0c9201116b80
    "gap-development.tsv": ("b9a01434fcf58d8c2f9bc762480c27e58ce466cf1ffe8b09cfecbc7a20d2d634", 2000),
    "gap-test.tsv": ("1c35e36d5b14f6313ec3f6cd67b275de282595dd59e59390e00cfff9897a6819", 2000),
    "gap-validation.tsv": ("2d784f66b390404f554704b9aef6dcde8845e79dda9886b8391cf7e9a24fdb98", 454),
    # https://github.com/marionbartl/gender-bias-BERT, commit c1e28434555f79b59e13e3f5ff87846e653fb553
    "gap_flipped.tsv": ("d4857fd416a16a636ccc74b84041d887df0d2c66b34dec4694222439bd226479", 4454),
    # https://github.com/marionbartl/gender-bias-BERT, commit c1e28434555f79b59e13e3f5ff87846e653fb553; the second file
    # is called "Professions US+DE.tsv" there
    "BEC-Pro_EN.tsv": ("228b44c62d7830fec13a1eee52bbe8afff82be455abb9d8a07c17d9d0b48e20f", 5400),
    "Professions_US_DE.tsv": ("7597b1d56d21f79cfe3df7989292df94eb54cebc4cf977b2c94af75d787cc7ce", 60),
    # https://github.com/nyu-mll/BBQ, commit bea11bd97d79217245b5871acd247b9d6eb24598
    "Gender_identity.jsonl": ("8b5adbb368510a97d5775dc43e1c719e0249fe2da33f13c83e3e29edafec7a00", 5672),
    # https://github.com/W4ngatang/sent-bias, commit e3559fb669ca4832743b42fee715994c15c7f1af; rows are sentences
    "sent-weat6.jsonl": ("bcf1a6864e3da0e8982d70451721877f23e2efaf6aea33628df843d826b68ae2", 341),
    "sent-weat6b.jsonl": ("8d1dd09833d1854784503c2eb9986d1951d684fb3289a18da85e72fa1e59e4ff", 373),
    "sent-weat7.jsonl": ("86c151b640bc9ebf6f60cd94920ab1f5bff68ea1a993f322f729cf3620173e0f", 304),
    "sent-weat7b.jsonl": ("16b7c23eb529421b411b508b2928b0d62e52cbb80cf40f8e9acbdfb52cd75350", 272),
    "sent-weat8.jsonl": ("352fea8d5440800a219dd6141a6f5e414a708770bc2717bfc581bc249e108ded", 272),
    "sent-weat8b.jsonl": ("c410535cac813f806d20a7f76f4bea62ee44f98d8828f8f0ac6a4b7694c414bc", 240),
    # https://github.com/amazon-science/bold, commit 3ad652c773f5d1e30d5f6f61657ed934d768ecad
    "gender_prompt.json": ("a863aaf2492e3c911c39f435005abee2eba5f5edabe836e97de110cd83273054", 3204),
}

Line = tuple[int, str]
"""its number in the file, from 1, and its text"""


def published_path(folder: str | Path, name: str, published: bool) -> Path:
    """A data set's file, compared with the published one.

    Raises LocateError when it is missing, or differs from the published file where that is asked for.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise LocateError(f"no file {path}: expected {name} as it was published")
    found = hash_of_files([path])
    if published and found != PUBLISHED[name][0]:
        raise LocateError(
            f"{path} has sha256 {found[:12]}...; the published file has {PUBLISHED[name][0][:12]}...: fetch it again, "
            "or read a changed one with published=False"
        )
    return path


def read_lines(folder: str | Path, name: str, published: bool) -> list[Line]:
    """The lines of a published text file that are not blank.

    Raises LocateError as `published_path` does, for a file that is not UTF-8, and for one of another length.
    """
    path = published_path(folder, name, published)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LocateError(f"{path} is not UTF-8 text ({error}): fetch it again") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    check_row_count(path, len(lines) - name.endswith(".tsv"), published)
    return lines


def check_row_count(path: Path, rows: int, published: bool) -> None:
    """Raise LocateError for a file without rows, or with another number of rows than the published one."""
    expected = PUBLISHED[path.name][1]
    if rows < 1 or (published and rows != expected):
        raise LocateError(f"{path} has {rows} rows: expected {expected if published else 'at least one'}")


def read_table(folder: str | Path, name: str, columns: tuple[str, ...], published: bool) -> list[tuple[int, list[str]]]:
    """The rows of a published tab-separated file as (line number, cells in the order of `columns`).

    Raises LocateError as `read_lines` does, for another header, and for a row with another number of cells.
    """
    (_, head), *lines = read_lines(folder, name, published)
    path = Path(folder) / name
    if tuple(head.split("\t")) != columns:
        raise LocateError(f"{path} has the header {head!r}: expected {', '.join(columns)}, separated by tabs")
    rows = []
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) != len(columns) or not all(cell.strip() for cell in cells):
            raise bad_row(path, number, line, f"{len(columns)} filled cells separated by tabs")
        rows.append((number, cells))
    return rows


def bad_row(path: Path, number: int, line: str, expected: str) -> LocateError:
    """The error that names a malformed row."""
    return LocateError(f"{path}, line {number}: {line.strip()[:120]!r}: expected {expected}")


def read_share(path: Path, number: int, cell: str) -> float:
    """A percentage.

    Raises LocateError unless it is a number in [0, 100].
    """
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 100:
        raise bad_row(path, number, cell, "a percentage")
    return value
