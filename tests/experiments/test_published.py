import re

from experiments import published


def test_every_published_config_has_its_scores_and_costs():
    tables = published.tables()
    shown = "\n".join(tables[name] for name in published.DATA_SETS)
    for name in published.published_scores():
        assert f"| `{name}` |" in shown
    assert "| `cityscapes:mmseg-r50-512x1024-40k` | 77.76 | 78.87 | 6 | 3.32 |" in shown
    assert "| `voc12aug:official-r50-512x512-40k` | - | - | - | - |" in shown
    assert set(published.MMSEG_COSTS) < set(published.published_scores())


def test_every_table_names_its_source():
    for table in published.tables().values():
        assert re.search(r"\*Published: (Huang et al., ICCV 2019|mmsegmentation)", table.splitlines()[-1])


def test_the_papers_scores_are_those_of_its_configs():
    scores = published.published_scores()
    rows = {row[0]: row[-1] for row in published.PAPER_ROWS}
    assert rows["Table 3, R = 2"] == str(scores["cityscapes:official-r101-769x769-60k"][0])
    assert rows["Table 1, val, several scales"] == str(scores["cityscapes:official-r101-769x769-60k"][1])
    r50 = scores["cityscapes:official-r50-769x769-60k"][0]
    assert rows["Table 4, RCCA (R = 2)"] == f"{r50} / {rows['Table 3, R = 2']}"
    assert rows["Table 6, ADE20K val"] == str(scores["ade20k:official-r101-512x512-160k"][1])
