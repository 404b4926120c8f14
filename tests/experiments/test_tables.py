"""The tables of experiments from small results."""

from experiments import attention_memory, cost, testing_memory


def test_attention_memory():
    sizes = [("a", 97, "float32", 44.67, 113.4), ("a", 128, "bfloat16", 76.2, 193.9)]
    sizes += [("b", 97, "float32", 708.0, 1106.4)]
    rows = [
        {"module": name, "height": side, "width": side, "dtype": dtype, "forward": forward, "both": both}
        for name, side, dtype, forward, both in sizes
    ]
    assert attention_memory.tables({"sizes": rows})["sizes"].splitlines() == [
        "| MB, forward / forward + backward | 97x97 float32 | 128x128 bfloat16 |",
        "|---|---|---|",
        "| a | 45 / 113 | 76 / 194 |",
        "| b | 708 / 1106 |  |",
    ]


def test_testing_memory_takes_the_largest_step():
    rows = [
        {"mode": mode, "classes": classes, "steps": {"network": network, "add": 2_000_000_000}}
        for mode, classes, network in (("whole", 19, 10**9), ("whole", 150, 3 * 10**9), ("slide", 19, 0))
    ]
    rows += [{"mode": "slide", "classes": 150, "steps": {"network": 1.26e9}}]
    assert testing_memory.tables({"rows": rows})["modes"].splitlines() == [
        "| GB | 19 classes | 150 classes |",
        "|---|---|---|",
        "| whole | 2.0 | 3.0 |",
        "| slide | 2.0 | 1.3 |",
    ]


def test_cost_of_training_and_of_recomputing():
    training = [
        {"name": "a:b", "dtype": dtype, "batch_size": 2, "peak_bytes": peak, "published_gigabytes": 6}
        for dtype, peak in (("float32", 5_284_000_000), ("bfloat16", 3_020_000_000))
    ]
    remat = [
        {
            "name": "a:b",
            "dtype": "float32",
            "remat": how,
            "batch_size": 2,
            "temporary_bytes": size,
            "products": products,
        }
        for how, size, products in (
            ("none", 4_880_000_000, 3_000_000_000_000),
            ("blocks", 1e9, 4_000_000_000_000),
        )
    ]
    tables = cost.tables({"training": training, "remat": remat, "growth": []})
    assert list(tables) == ["training", "remat"]
    assert "| `a:b` | 2 | 6 | 5.28 | 3.02 |" in tables["training"]
    assert "| `a:b` | 2 | float32 | `none` | 4.88 | 3.00 | 0 % |" in tables["remat"]
    assert "| `a:b` | 2 | float32 | `blocks` | 1.00 | 4.00 | 33 % |" in tables["remat"]


def test_every_part_of_the_costs_has_rows_and_a_table():
    for part in cost.PARTS.values():
        assert len({tuple(key.items()) for key in part.keys}) == len(part.keys) > 0
    assert set(cost.tables({part: [] for part in cost.PARTS})) == set()
