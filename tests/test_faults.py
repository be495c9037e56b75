"""Every planted fault can be planted: its line stands where it says, once, and what it becomes is still Python."""

import ast

import pytest
from faults import FAULTS, ROOT


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.name)
def test_a_fault_has_its_line_once(planted):
    path = ROOT / "locate" / planted.file
    text = path.read_text()
    assert text.count(planted.line) == 1
    assert planted.becomes != planted.line
    if path.suffix == ".py":
        ast.parse(text.replace(planted.line, planted.becomes))
    for word in planted.tests:
        assert not word.startswith("tests/") or (ROOT / word).is_file()


def test_faults_have_names_of_their_own():
    assert len({planted.name for planted in FAULTS}) == len(FAULTS)
